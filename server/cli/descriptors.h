/* The limit on open descriptors, of which every connection takes one. */
#ifndef CLI_DESCRIPTORS_H
#define CLI_DESCRIPTORS_H

#include <stdint.h>

struct log;

/* 0, or a code of libuv's when there are not even those that an event loop needs. */
int descriptors_check(void);
/* Raises the limit as far as so many connections need, and returns how many of them it leaves room
 * for, which is logged when it is fewer. */
int64_t descriptors_for(int64_t connections, struct log *log);

#endif
