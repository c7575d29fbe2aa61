"""A service: many instances behind one name, and how calls find one of them."""
