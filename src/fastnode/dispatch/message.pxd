from fastnode.wire.extension cimport Extension


cdef class Message:
    cdef readonly bytes payload
    cdef readonly object sender
    cdef readonly str endpoint
    # What its extension block said; None: it had none.
    cdef Extension extension


cdef Message make_message(bytes payload, object sender, str endpoint)
