/* uthash as this program uses it: XXH3 with a secret of the process, because keys come from clients
 * and nobody shall choose names that share a bucket; and a failed allocation is no end of the
 * process: HASH_ADDED tells whether the element is in the table now. */
#ifndef HASH_TABLE_H
#define HASH_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* XXH3 of the bytes with the secret: another number in another process. */
uint64_t hash_bytes(const void *bytes, size_t size);

#define HASH_FUNCTION(key, size, out) ((out) = (unsigned)hash_bytes(key, size))
#define HASH_NONFATAL_OOM 1
#include <uthash.h>

/* After HASH_ADD and its like. */
#define HASH_ADDED(element) ((element)->hh.tbl != NULL)

#endif
