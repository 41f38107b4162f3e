/* Elements read and written, float16 and bfloat16 rounded to the nearest, to even between two. */
#include "number.h"

#include <math.h>
#include <string.h>

#include "tensor.h"

size_t dtype_nbytes(int dtype)
{
    switch (dtype) {
    case INT8: case UINT8: case BOOL: case FLOAT8_E5M2: case FLOAT8_E4M3FN: return 1;
    case FLOAT16: case BF16: case INT16: case UINT16: return 2;
    case FLOAT: case INT32: case UINT32: return 4;
    case INT64: case UINT64: case DOUBLE: case COMPLEX64: return 8;
    case COMPLEX128: return 16;
    default: return 0;
    }
}

int dtype_is_number(int dtype)
{
    return dtype_nbytes(dtype) != 0 && dtype != COMPLEX64 && dtype != COMPLEX128 && dtype != FLOAT8_E5M2 &&
           dtype != FLOAT8_E4M3FN;
}

static double half_to_double(uint16_t bits)
{
    int exponent = bits >> 10 & 31, fraction = bits & 1023;
    double value = exponent == 0    ? ldexp(fraction, -24)
                   : exponent == 31 ? (fraction ? NAN : INFINITY)
                                    : ldexp(fraction + 1024, exponent - 25);
    return bits >> 15 ? -value : value;
}

static uint16_t double_to_half(double value)
{
    uint16_t sign = signbit(value) ? 0x8000 : 0;
    double size = fabs(value);
    int exponent;
    if (isnan(value))
        return (uint16_t)(sign | 0x7e00);
    if (size >= 65520)
        return (uint16_t)(sign | 0x7c00);
    if (size < ldexp(1, -14))
        return (uint16_t)(sign | (int)nearbyint(ldexp(size, 24)));
    frexp(size, &exponent);
    /* A carry out of the fraction counts the exponent up, as it should. */
    int bits = (exponent + 14) << 10;
    return (uint16_t)(sign | (bits + (int)nearbyint(ldexp(size, 11 - exponent)) - 1024));
}

static double bf16_to_double(uint16_t bits)
{
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

static uint16_t float_to_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (isnan(value))
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static struct number real(double value)
{
    return (struct number){.is_real = 1, .real = value};
}

static struct number whole(int64_t value)
{
    return (struct number){.whole = value};
}

#define LOAD(type, make)                      \
    {                                         \
        type value;                           \
        memcpy(&value, at, sizeof value);     \
        return make;                          \
    }
#define STORE(type, from)                     \
    {                                         \
        type value = (type)(from);            \
        memcpy(at, &value, sizeof value);     \
        return;                               \
    }

struct number number_load(int dtype, const char *at)
{
    switch (dtype) {
    case FLOAT: LOAD(float, real(value))
    case FLOAT16: LOAD(uint16_t, real(half_to_double(value)))
    case BF16: LOAD(uint16_t, real(bf16_to_double(value)))
    case DOUBLE: LOAD(double, real(value))
    case INT8: LOAD(int8_t, whole(value))
    case UINT8: LOAD(uint8_t, whole(value))
    case INT16: LOAD(int16_t, whole(value))
    case UINT16: LOAD(uint16_t, whole(value))
    case INT32: LOAD(int32_t, whole(value))
    case UINT32: LOAD(uint32_t, whole(value))
    case BOOL: LOAD(uint8_t, whole(value != 0))
    default: LOAD(int64_t, whole(value))
    }
}

void number_store(int dtype, char *at, struct number number)
{
    double as_real = number.is_real ? number.real : (double)number.whole;
    /* A number that is none, or too large, becomes 0: C leaves that open. */
    int64_t as_whole = !number.is_real ? number.whole : fabs(number.real) < 9.2e18 ? (int64_t)number.real : 0;
    switch (dtype) {
    case FLOAT: STORE(float, as_real)
    /* By way of float, as torch's CPU does it: 16 bits are rounded twice. */
    case FLOAT16: STORE(uint16_t, double_to_half((float)as_real))
    case BF16: STORE(uint16_t, float_to_bf16((float)as_real))
    case DOUBLE: STORE(double, as_real)
    case INT8: STORE(int8_t, as_whole)
    case UINT8: STORE(uint8_t, as_whole)
    case INT16: STORE(int16_t, as_whole)
    case UINT16: STORE(uint16_t, as_whole)
    case INT32: STORE(int32_t, as_whole)
    case UINT32: STORE(uint32_t, as_whole)
    case BOOL: STORE(uint8_t, number.is_real ? number.real != 0 : number.whole != 0)
    default: STORE(int64_t, as_whole)
    }
}
