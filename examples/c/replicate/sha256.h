/* SHA-256 (FIPS 180-4). */
#ifndef SHA256_H
#define SHA256_H

#include <stddef.h>
#include <stdint.h>

/* Writes the digest of `length` bytes as 64 hexadecimal digits and a zero byte. */
void sha256_hex(const void *data, size_t length, char out[65]);

#endif
