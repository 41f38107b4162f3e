from ckptfmt._native.run cimport Run
from ckptfmt._native.worker cimport Worker

cdef enum Begun:
    NO_MORE, DONE_ALREADY, IN_FLIGHT, REFUSED

cdef void give_back(Worker *w, unsigned slot) noexcept nogil
cdef Begun begin(Run *run, Worker *w) noexcept nogil
cdef bint complete(Run *run, Worker *w, bint block) noexcept nogil
