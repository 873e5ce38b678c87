/* The part of Python's pickle that state dicts are made of, read as data.
 *
 * A pickle is a program for a small stack machine. This reader runs the opcodes torch.save writes
 * (protocols 2 to 5) and knows a closed table of globals; "calling" one of them builds one of the
 * values below, nothing else. Any other global is a name that is written down: what is made with it
 * (a configuration, a date, a sparse tensor beside the weights) becomes an opaque placeholder that
 * swallows its contents. Only names that nobody but an attacker writes stop the reader, and so do
 * opcodes that torch.save never uses.
 * No value is ever walked recursively here, so nesting costs nothing but memory, and memory is
 * bounded by the arena's limit. */
#ifndef IMF__PICKLE_H
#define IMF__PICKLE_H

#include "files/checkpoint_parts.h"

/* ---- Input: a range of a file through a small buffer ----------------------------------------- */

struct imf__reader {
    const struct imf__file *file;
    uint64_t at, end; /* next byte to fetch into the buffer, end of the range */
    size_t used, filled;
    uint8_t buffer[8192];
};

void imf__reader_init(struct imf__reader *r, const struct imf__file *file, uint64_t at,
                      uint64_t end);
/* Position of the next byte in the file. */
uint64_t imf__reader_tell(const struct imf__reader *r);

/* ---- Values ---------------------------------------------------------------------------------- */

enum imf__pickle_kind {
    IMF__PICKLE_NONE,
    IMF__PICKLE_BOOL,   /* integer */
    IMF__PICKLE_INT,    /* integer */
    IMF__PICKLE_BIGINT, /* text: little-endian two's complement, over 8 bytes */
    IMF__PICKLE_FLOAT,
    IMF__PICKLE_STRING, /* text, length; may hold a NUL */
    IMF__PICKLE_BYTES,
    IMF__PICKLE_TUPLE, /* items */
    IMF__PICKLE_LIST,
    IMF__PICKLE_DICT, /* items: key, value, key, value, ... in order of insertion */
    IMF__PICKLE_GLOBAL,
    IMF__PICKLE_STORAGE,
    IMF__PICKLE_TENSOR,
    IMF__PICKLE_OPAQUE /* an object that is not built; global: what would have made it, or NULL */
};

struct imf__pickle_storage {
    enum imf__stored_type type;
    uint32_t item;                    /* bytes per element; 0: not known */
    const char *key;                  /* names the storage in the file */
    uint64_t count;                   /* elements */
    uint64_t view_offset;             /* legacy views: first element within storage `key` */
    struct imf__pickle_storage *next; /* of the pickle, in no order */
};

struct imf__pickle_tensor {
    const struct imf__pickle_storage *storage;
    enum imf__stored_type type;
    uint32_t item;   /* 0: not known */
    bool negated;    /* torch's negative bit: the values are minus what is stored */
    uint64_t offset; /* in elements */
    int ndim;
    int64_t shape[IMF__MAX_DIMS], stride[IMF__MAX_DIMS];
};

struct imf__pickle_value {
    enum imf__pickle_kind kind;
    uint32_t count, capacity; /* of items */
    union {
        int64_t integer;
        const struct imf__pickle_global *global;
        struct imf__pickle_storage *storage;
        const struct imf__pickle_tensor *tensor;
        struct imf__pickle_value **items;
        const char *text;
    };
    size_t length; /* of text */
};

/* Something a pickle names. Of those outside the table only the names are kept. */
struct imf__pickle_global {
    const char *module, *name;
    int kind;                   /* enum imf__global_kind */
    enum imf__stored_type type; /* of a storage or dtype */
    uint32_t item;
    struct imf__pickle_global *next; /* of imf__pickle.unknown */
};

/* What a pickle held. Everything lives in the arena. */
struct imf__pickle {
    struct imf__pickle_value *root;
    struct imf__pickle_storage *storages; /* all that it names, in whatever part of the root */
    struct imf__pickle_global *unknown;   /* named and not in the table: the first few, each once */
};

/* Runs one pickle up to its STOP; the reader is then just behind it. */
IMF_MUST_CHECK imf_status imf__pickle_run(struct imf__pickle *out, struct imf__arena *arena,
                                          struct imf__reader *r, struct imf_error *err);

/* True when v is a string equal to `text`. */
bool imf__pickle_is(const struct imf__pickle_value *v, const char *text);

#endif
