"""What happens to what a link receives: from a whole frame to the end of a handler."""
