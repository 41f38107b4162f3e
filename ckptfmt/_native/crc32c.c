#include "crc32c.h"

#include <stdlib.h>
#include <string.h>

#define POLYNOMIAL 0x82F63B78u

/* A CRC instruction takes 3 cycles and starts one each cycle, so three runs of bytes are worked on side
 * by side and joined by moving a CRC over the bytes that follow it (a linear map: four look-ups). */
#define LONG_RUN 4096u
#define SHORT_RUN 256u

static uint32_t byte_table[8][256];
static uint32_t long_shift[4][256];
static uint32_t short_shift[4][256];

/* a · b modulo the polynomial; bit 31 is the coefficient of x^0. */
static uint32_t multiply(uint32_t a, uint32_t b)
{
    uint32_t product = 0;
    for (uint32_t bit = 1u << 31; bit != 0; bit >>= 1) {
        if (a & bit)
            product ^= b;
        b = (b & 1) ? (b >> 1) ^ POLYNOMIAL : b >> 1;
    }
    return product;
}

/* A power modulo the polynomial, by repeated squaring. */
#define X8 0x00800000u
static uint32_t power(uint32_t square, uint64_t exponent)
{
    uint32_t factor = 1u << 31; /* x^0 */
    for (; exponent != 0; exponent >>= 1) {
        if (exponent & 1)
            factor = multiply(square, factor);
        square = multiply(square, square);
    }
    return factor;
}

/* What moves a CRC over nbytes more. */
static uint32_t shift_factor(uint64_t nbytes)
{
    return power(X8, nbytes);
}

static void fill_shift(uint32_t table[4][256], size_t nbytes)
{
    uint32_t factor = shift_factor(nbytes);
    for (unsigned place = 0; place < 4; place++)
        for (uint32_t value = 0; value < 256; value++)
            table[place][value] = multiply(factor, value << (8 * place));
}

static inline uint32_t shift(uint32_t table[4][256], uint32_t crc)
{
    return table[0][crc & 0xff] ^ table[1][(crc >> 8) & 0xff] ^
           table[2][(crc >> 16) & 0xff] ^ table[3][crc >> 24];
}

static inline uint64_t load64(const uint8_t *p)
{
    uint64_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

/* All three work on the raw register: the complement is taken once, at the border. */
static uint32_t update_table(uint32_t crc, const uint8_t *p, size_t nbytes)
{
    for (; nbytes >= 8; p += 8, nbytes -= 8) {
        uint64_t word = load64(p) ^ crc;
        crc = 0;
#pragma GCC unroll 8
        for (unsigned i = 0; i < 8; i++)
            crc ^= byte_table[7 - i][(word >> (8 * i)) & 0xff];
    }
    for (; nbytes != 0; p++, nbytes--)
        crc = byte_table[0][(crc ^ *p) & 0xff] ^ (crc >> 8);
    return crc;
}

#if defined(__x86_64__)
#include <immintrin.h>
#define HARDWARE_NAME "sse4.2"
#define TARGET __attribute__((target("sse4.2")))
#define STEP64(crc, word) ((uint32_t)_mm_crc32_u64((crc), (word)))
#define STEP8(crc, byte) _mm_crc32_u8((crc), (byte))
static int hardware_present(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("sse4.2");
}
#elif defined(__aarch64__)
#include <sys/auxv.h>
#define HARDWARE_NAME "armv8-crc"
#define TARGET __attribute__((target("+crc")))
#define STEP64(crc, word) __builtin_aarch64_crc32cx((crc), (word))
#define STEP8(crc, byte) __builtin_aarch64_crc32cb((crc), (byte))
static int hardware_present(void)
{
    return (getauxval(AT_HWCAP) & (1ul << 7)) != 0; /* HWCAP_CRC32 */
}
#endif

#ifdef HARDWARE_NAME
TARGET static uint32_t update_hardware(uint32_t crc, const uint8_t *p, size_t nbytes)
{
#define THREE_RUNS(RUN, SHIFT)                                          \
    while (nbytes >= 3 * RUN) {                                         \
        uint32_t second = 0, third = 0;                                 \
        const uint8_t *stop = p + RUN;                                  \
        for (; p < stop; p += 8) {                                      \
            crc = STEP64(crc, load64(p));                               \
            second = STEP64(second, load64(p + RUN));                   \
            third = STEP64(third, load64(p + 2 * RUN));                 \
        }                                                               \
        crc = shift(SHIFT, shift(SHIFT, crc) ^ second) ^ third;         \
        p += 2 * RUN;                                                   \
        nbytes -= 3 * RUN;                                              \
    }
    THREE_RUNS(LONG_RUN, long_shift)
    THREE_RUNS(SHORT_RUN, short_shift)
#undef THREE_RUNS
    for (; nbytes >= 8; p += 8, nbytes -= 8)
        crc = STEP64(crc, load64(p));
    for (; nbytes != 0; p++, nbytes--)
        crc = STEP8(crc, *p);
    return crc;
}
#endif

#if defined(__x86_64__)
/* Where there is a wide carry-less multiplication too, which other ports of the processor carry out, it
 * works on a fourth run meanwhile: 128 bytes of it beside 40 of each of the three. */
#define FOLD_STEPS 64u
#define FOLD_RUN (128u * FOLD_STEPS)
#define BESIDE_RUN (40u * (FOLD_STEPS - 1))
static uint32_t beside_shift[4][256];
static uint64_t fold_128[2], fold_32[2];

#define X 0x40000000u
/* What moves 16 bytes by nbytes when each half is multiplied by one of them: a product of two reflected
 * words stands one bit low, hence the -1. */
static void fill_fold(uint64_t fold[2], size_t nbytes)
{
    fold[0] = (uint64_t)power(X, 8 * nbytes + 63) << 32; /* the first eight bytes are 64 bits further up */
    fold[1] = (uint64_t)power(X, 8 * nbytes - 1) << 32;
}

#define FOLD_TARGET __attribute__((target("sse4.2,avx2,pclmul,vpclmulqdq")))
FOLD_TARGET static inline __m256i load256(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

FOLD_TARGET static inline __m256i fold(__m256i old, __m256i by, __m256i next)
{
    __m256i first = _mm256_clmulepi64_epi128(old, by, 0x00);
    __m256i second = _mm256_clmulepi64_epi128(old, by, 0x11);
    return _mm256_xor_si256(_mm256_xor_si256(first, second), next);
}

FOLD_TARGET static inline __m256i factors(const uint64_t by[2])
{
    return _mm256_set_epi64x((int64_t)by[1], (int64_t)by[0], (int64_t)by[1], (int64_t)by[0]);
}

FOLD_TARGET static uint32_t update_folding(uint32_t crc, const uint8_t *p, size_t nbytes)
{
    const __m256i by_128 = factors(fold_128), by_32 = factors(fold_32);
    while (nbytes >= FOLD_RUN + 3 * BESIDE_RUN) {
        const uint8_t *q = p + FOLD_RUN;
        uint32_t first = 0, second = 0, third = 0;
        uint64_t words[4];
        __m256i a = _mm256_xor_si256(load256(p), _mm256_set_epi32(0, 0, 0, 0, 0, 0, 0, (int)crc));
        __m256i b = load256(p + 32), c = load256(p + 64), d = load256(p + 96);
        for (unsigned step = 1; step < FOLD_STEPS; step++) {
            p += 128;
            a = fold(a, by_128, load256(p));
            b = fold(b, by_128, load256(p + 32));
            c = fold(c, by_128, load256(p + 64));
            d = fold(d, by_128, load256(p + 96));
#pragma GCC unroll 5
            for (unsigned i = 0; i < 40; i += 8) {
                first = STEP64(first, load64(q + i));
                second = STEP64(second, load64(q + i + BESIDE_RUN));
                third = STEP64(third, load64(q + i + 2 * BESIDE_RUN));
            }
            q += 40;
        }
        d = fold(fold(fold(a, by_32, b), by_32, c), by_32, d);
        _mm256_storeu_si256((__m256i *)words, d);
        crc = 0;
        for (unsigned i = 0; i < 4; i++)
            crc = STEP64(crc, words[i]);
        crc = shift(beside_shift, crc) ^ first;
        crc = shift(beside_shift, crc) ^ second;
        crc = shift(beside_shift, crc) ^ third;
        p += 128 + 3 * BESIDE_RUN;
        nbytes -= FOLD_RUN + 3 * BESIDE_RUN;
    }
    return update_hardware(crc, p, nbytes);
}
#endif

static uint32_t (*update)(uint32_t, const uint8_t *, size_t) = update_table;
static const char *name = "table";

__attribute__((constructor)) static void initialise(void)
{
    for (uint32_t value = 0; value < 256; value++) {
        uint32_t crc = value;
        for (unsigned bit = 0; bit < 8; bit++)
            crc = (crc & 1) ? (crc >> 1) ^ POLYNOMIAL : crc >> 1;
        byte_table[0][value] = crc;
    }
    for (unsigned row = 1; row < 8; row++)
        for (uint32_t value = 0; value < 256; value++) {
            uint32_t crc = byte_table[row - 1][value];
            byte_table[row][value] = byte_table[0][crc & 0xff] ^ (crc >> 8);
        }
    fill_shift(long_shift, LONG_RUN);
    fill_shift(short_shift, SHORT_RUN);
    const char *wanted = getenv("CKPTFMT_CHECKSUM"); /* to see what the instruction is worth */
    if (wanted != NULL && strcmp(wanted, "table") == 0)
        return;
#ifdef HARDWARE_NAME
    if (hardware_present()) {
        update = update_hardware;
        name = HARDWARE_NAME;
    }
#endif
#if defined(__x86_64__)
    fill_shift(beside_shift, BESIDE_RUN);
    fill_fold(fold_128, 128);
    fill_fold(fold_32, 32);
    if (update == update_hardware && __builtin_cpu_supports("vpclmulqdq") && __builtin_cpu_supports("avx2")) {
        update = update_folding;
        name = "sse4.2+vpclmulqdq";
    }
#endif
}

uint32_t ckptfmt_crc32c(uint32_t crc, const void *data, size_t nbytes)
{
    return ~update(~crc, data, nbytes);
}

uint32_t ckptfmt_crc32c_table(uint32_t crc, const void *data, size_t nbytes)
{
    return ~update_table(~crc, data, nbytes);
}

uint32_t ckptfmt_crc32c_combine(uint32_t first, uint32_t second, uint64_t nbytes)
{
    return multiply(shift_factor(nbytes), first) ^ second;
}

const char *ckptfmt_crc32c_name(void)
{
    return name;
}
