cdef class Message:
    cdef readonly bytes payload
    cdef readonly object sender
    cdef readonly str endpoint


cdef Message make_message(bytes payload, object sender, str endpoint)
