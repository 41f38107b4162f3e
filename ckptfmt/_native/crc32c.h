/* CRC32C (Castagnoli, reflected 0x82F63B78; RFC 3720, appendix B.4), in hardware where there is any. */
#ifndef CKPTFMT_CRC32C_H
#define CKPTFMT_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* The CRC of `nbytes` bytes that follow others whose CRC is `crc` (0 at the start). */
uint32_t ckptfmt_crc32c(uint32_t crc, const void *data, size_t nbytes);

/* The same by tables, on every machine. */
uint32_t ckptfmt_crc32c_table(uint32_t crc, const void *data, size_t nbytes);

/* The CRC of a run of bytes from those of its two halves; the second half has `nbytes` bytes. */
uint32_t ckptfmt_crc32c_combine(uint32_t first, uint32_t second, uint64_t nbytes);

/* What ckptfmt_crc32c runs on: "sse4.2", "sse4.2+vpclmulqdq", "armv8-crc" or "table". */
const char *ckptfmt_crc32c_name(void);

#endif
