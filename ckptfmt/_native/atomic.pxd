# What workers share without a lock: a counter, a flag, a sum. (GCC and clang builtins.)
cdef extern from *:
    """
    static inline long long ckptfmt_fetch_add(long long *value, long long by) {
        return __atomic_fetch_add(value, by, __ATOMIC_RELAXED);
    }
    static inline int ckptfmt_load_flag(const int *flag) {
        return __atomic_load_n(flag, __ATOMIC_ACQUIRE);
    }
    static inline void ckptfmt_set_flag(int *flag) {
        __atomic_store_n(flag, 1, __ATOMIC_RELEASE);
    }
    static inline int ckptfmt_latch(int *flag) {
        int expected = 0;
        return __atomic_compare_exchange_n(flag, &expected, 1, 0, __ATOMIC_ACQ_REL,
                                           __ATOMIC_ACQUIRE);
    }
    static inline unsigned ckptfmt_load_acquire(const unsigned *value) {
        return __atomic_load_n(value, __ATOMIC_ACQUIRE);
    }
    static inline void ckptfmt_store_release(unsigned *value, unsigned to) {
        __atomic_store_n(value, to, __ATOMIC_RELEASE);
    }
    """
    long long fetch_add "ckptfmt_fetch_add"(long long *value, long long by) noexcept nogil
    int load_flag "ckptfmt_load_flag"(const int *flag) noexcept nogil
    void set_flag "ckptfmt_set_flag"(int *flag) noexcept nogil
    int latch "ckptfmt_latch"(int *flag) noexcept nogil            # true for the first caller only
    unsigned load_acquire "ckptfmt_load_acquire"(const unsigned *value) noexcept nogil
    void store_release "ckptfmt_store_release"(unsigned *value, unsigned to) noexcept nogil
