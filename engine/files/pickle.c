/* The stack machine of pickle.h. */
#include "files/pickle_globals.h"

#include <stdlib.h>
#include <string.h>

#define MAX_STACK (1u << 18)
#define MAX_MEMO (1u << 22)
#define MAX_STRING (64u << 20)
#define MAX_GLOBAL 512
#define MAX_UNKNOWN 64 /* globals kept for telling */

/* ---- Input ----------------------------------------------------------------------------------- */

void imf__reader_init(struct imf__reader *r, const struct imf__file *file, uint64_t at,
                      uint64_t end)
{
    r->file = file;
    r->at = at;
    r->end = end;
    r->used = r->filled = 0;
}

uint64_t imf__reader_tell(const struct imf__reader *r)
{
    return r->at - (r->filled - r->used);
}

/* Exactly n bytes, or IMF_EFORMAT. */
static imf_status reader_get(struct imf__reader *r, void *dst, size_t n, struct imf_error *err)
{
    uint8_t *p = dst;
    if (n > r->end - imf__reader_tell(r))
        return imf__fail(err, IMF_EFORMAT, "%s: truncated: the pickle ends at byte %llu",
                         r->file->label, (unsigned long long)r->end);
    while (n) {
        if (r->used == r->filled) {
            uint64_t left = r->end - r->at;
            size_t size = left < sizeof(r->buffer) ? (size_t)left : sizeof(r->buffer);
            imf_status status = imf__file_read(r->file, r->buffer, size, r->at, err);
            if (status != IMF_OK)
                return status;
            r->at += size;
            r->used = 0;
            r->filled = size;
        }
        size_t take = r->filled - r->used < n ? r->filled - r->used : n;
        memcpy(p, r->buffer + r->used, take);
        r->used += take;
        p += take;
        n -= take;
    }
    return IMF_OK;
}

bool imf__pickle_is(const struct imf__pickle_value *v, const char *text)
{
    return v->kind == IMF__PICKLE_STRING && v->length == strlen(text) &&
           memcmp(v->text, text, v->length) == 0;
}

/* ---- Machine --------------------------------------------------------------------------------- */

struct machine {
    struct imf__arena *arena;
    struct imf__reader *r;
    struct imf_error *err;
    struct imf__pickle_value **stack; /* NULL entries are marks */
    size_t depth, stack_capacity;
    struct imf__pickle_value **memo;
    size_t memo_capacity, memoized;
    struct imf__pickle_storage *storages;
    struct imf__pickle_global *unknown, **unknown_end;
    unsigned unknown_count;
    uint8_t op;
};

static imf_status bad(const struct machine *m, const char *why)
{
    return imf__fail(m->err, IMF_EFORMAT, "%s: pickle opcode 0x%02x before byte %llu: %s",
                     m->r->file->label, m->op, (unsigned long long)imf__reader_tell(m->r), why);
}

static imf_status full(const struct machine *m)
{
    return bad(m, "the pickle needs more memory than the limit");
}

static imf_status push(struct machine *m, struct imf__pickle_value *v)
{
    if (m->depth == m->stack_capacity) {
        if (m->stack_capacity >= MAX_STACK)
            return bad(m, "the stack is too deep");
        size_t capacity = m->stack_capacity ? 2 * m->stack_capacity : 256;
        struct imf__pickle_value **grown = realloc(m->stack, capacity * sizeof(*grown));
        if (!grown)
            return full(m);
        m->stack = grown;
        m->stack_capacity = capacity;
    }
    m->stack[m->depth++] = v;
    return IMF_OK;
}

/* The top value; NULL when the stack is empty or a mark is on top. */
static struct imf__pickle_value *top(const struct machine *m)
{
    return m->depth ? m->stack[m->depth - 1] : NULL;
}

static struct imf__pickle_value *pop(struct machine *m)
{
    struct imf__pickle_value *v = top(m);
    if (v)
        m->depth--;
    return v;
}

/* Removes everything down to the topmost mark and the mark itself. The values stay readable at
 * *first until the next push. False when there is no mark. */
static bool pop_mark(struct machine *m, struct imf__pickle_value ***first, size_t *n)
{
    size_t i = m->depth;
    while (i > 0 && m->stack[i - 1])
        i--;
    if (i == 0)
        return false;
    *first = m->stack + i;
    *n = m->depth - i;
    m->depth = i - 1;
    return true;
}

static imf_status push_new(struct machine *m, enum imf__pickle_kind kind, int64_t integer)
{
    struct imf__pickle_value *v = imf__pickle_new(m->arena, kind);
    if (!v)
        return full(m);
    v->integer = integer;
    return push(m, v);
}

static imf_status push_empty(struct machine *m, enum imf__pickle_kind kind)
{
    struct imf__pickle_value *v = imf__pickle_new(m->arena, kind);
    return v ? push(m, v) : full(m);
}

/* Reads an n-byte little-endian number, n <= 8. */
static imf_status get_number(struct machine *m, int n, uint64_t *out)
{
    uint8_t bytes[8];
    imf_status status = reader_get(m->r, bytes, (size_t)n, m->err);
    *out = 0;
    for (int i = n - 1; status == IMF_OK && i >= 0; i--)
        *out = *out << 8 | bytes[i];
    return status;
}

/* Text of n bytes, as a value of the kind. */
static imf_status push_text(struct machine *m, enum imf__pickle_kind kind, int length_bytes)
{
    uint64_t n;
    imf_status status = get_number(m, length_bytes, &n);
    if (status != IMF_OK)
        return status;
    if (n > MAX_STRING || n > m->r->end - imf__reader_tell(m->r))
        return bad(m, "a string is longer than the pickle, or than 64 MB");
    struct imf__pickle_value *v = imf__pickle_new(m->arena, kind);
    char *text = imf__arena_alloc(m->arena, (size_t)n + 1);
    if (!v || !text)
        return full(m);
    status = reader_get(m->r, text, (size_t)n, m->err);
    if (status != IMF_OK)
        return status;
    v->text = text;
    v->length = (size_t)n;
    return push(m, v);
}

/* LONG1, LONG4: two's complement of any length. */
static imf_status push_long(struct machine *m, int length_bytes)
{
    imf_status status = push_text(m, IMF__PICKLE_BIGINT, length_bytes);
    if (status != IMF_OK)
        return status;
    struct imf__pickle_value *v = top(m);
    if (v->length > 8)
        return IMF_OK;
    uint64_t x = v->length && (uint8_t)v->text[v->length - 1] & 0x80 ? UINT64_MAX : 0;
    for (size_t i = v->length; i-- > 0;)
        x = x << 8 | (uint8_t)v->text[i];
    v->kind = IMF__PICKLE_INT;
    v->integer = (int64_t)x;
    v->length = 0;
    return IMF_OK;
}

static imf_status memo_put(struct machine *m, uint64_t i)
{
    if (!top(m))
        return bad(m, "nothing to remember");
    if (i >= MAX_MEMO)
        return bad(m, "the memo is too large");
    if (i >= m->memo_capacity) {
        size_t capacity = m->memo_capacity ? m->memo_capacity : 1024;
        while (capacity <= i)
            capacity *= 2;
        struct imf__pickle_value **grown = realloc(m->memo, capacity * sizeof(*grown));
        if (!grown)
            return full(m);
        memset(grown + m->memo_capacity, 0, (capacity - m->memo_capacity) * sizeof(*grown));
        m->memo = grown;
        m->memo_capacity = capacity;
    }
    m->memoized += !m->memo[i];
    m->memo[i] = top(m);
    return IMF_OK;
}

static imf_status memo_get(struct machine *m, uint64_t i)
{
    if (i >= m->memo_capacity || !m->memo[i])
        return bad(m, "asks for something never remembered");
    return push(m, m->memo[i]);
}

/* ---- Containers ------------------------------------------------------------------------------ */

static imf_status tuple(struct machine *m, struct imf__pickle_value **first, size_t n)
{
    struct imf__pickle_value *v = imf__pickle_new(m->arena, IMF__PICKLE_TUPLE);
    if (!v)
        return full(m);
    if (n) {
        v->items = imf__arena_alloc(m->arena, n * sizeof(*first));
        if (!v->items)
            return full(m);
        memcpy(v->items, first, n * sizeof(*first));
    }
    v->count = v->capacity = (uint32_t)n;
    return push(m, v);
}

static imf_status tuple_of(struct machine *m, size_t n)
{
    if (m->depth < n)
        return bad(m, "the stack is empty");
    for (size_t i = m->depth - n; i < m->depth; i++) {
        if (!m->stack[i])
            return bad(m, "a mark inside a tuple");
    }
    m->depth -= n;
    return tuple(m, m->stack + m->depth, n);
}

/* Adds n values to the container on top of the stack. Objects that are only data swallow them. */
static imf_status add_items(struct machine *m, enum imf__pickle_kind kind,
                            struct imf__pickle_value **first, size_t n)
{
    struct imf__pickle_value *to = top(m);
    if (to && to->kind == IMF__PICKLE_OPAQUE)
        return IMF_OK;
    if (!to || to->kind != kind || (kind == IMF__PICKLE_DICT && n % 2))
        return bad(m, "adds items to something that is no such container");
    for (size_t i = 0; i < n; i++) {
        if (!imf__pickle_append(m->arena, to, first[i]))
            return full(m);
    }
    return IMF_OK;
}

static imf_status add_marked(struct machine *m, enum imf__pickle_kind kind)
{
    struct imf__pickle_value **first;
    size_t n;
    if (!pop_mark(m, &first, &n))
        return bad(m, "no mark");
    return add_items(m, kind, first, n);
}

/* Makes a container of everything above the mark. */
static imf_status marked(struct machine *m, enum imf__pickle_kind kind)
{
    struct imf__pickle_value **first;
    size_t n;
    if (!pop_mark(m, &first, &n))
        return bad(m, "no mark");
    if (kind == IMF__PICKLE_TUPLE)
        return tuple(m, first, n);
    /* The push lands on the mark's place, below `first`. */
    imf_status status = push_empty(m, kind);
    return status == IMF_OK ? add_items(m, kind, first, n) : status;
}

/* ---- Globals and objects --------------------------------------------------------------------- */

/* A global that is in no table; NULL when memory runs out. The first few are remembered. */
static const struct imf__pickle_global *unknown_global(struct machine *m, const char *module,
                                                       const char *name)
{
    for (const struct imf__pickle_global *g = m->unknown; g; g = g->next) {
        if (strcmp(g->module, module) == 0 && strcmp(g->name, name) == 0)
            return g;
    }
    struct imf__pickle_global *g = imf__arena_alloc(m->arena, sizeof(*g));
    if (!g)
        return NULL;
    g->kind = IMF__GLOBAL_UNKNOWN;
    g->type = IMF__STORED_OTHER;
    g->module = imf__arena_string(m->arena, module, strlen(module));
    g->name = imf__arena_string(m->arena, name, strlen(name));
    if (!g->module || !g->name)
        return NULL;
    if (m->unknown_count < MAX_UNKNOWN && !imf__pickle_global_is_quiet(module, name)) {
        *m->unknown_end = g;
        m->unknown_end = &g->next;
        m->unknown_count++;
    }
    return g;
}

static imf_status push_global(struct machine *m, const char *module, const char *name)
{
    if (imf__pickle_global_attacks(module, name))
        return imf__fail(m->err, IMF_EFORMAT,
                         "%s: the pickle names \"%.64s.%.64s\", with which it would attack its "
                         "reader: refused",
                         m->r->file->label, imf__quote(module).text, imf__quote(name).text);
    const struct imf__pickle_global *global = imf__pickle_global_find(module, name);
    if (!global)
        global = unknown_global(m, module, name);
    struct imf__pickle_value *v = global ? imf__pickle_new(m->arena, IMF__PICKLE_GLOBAL) : NULL;
    if (!v)
        return full(m);
    v->global = global;
    return push(m, v);
}

static imf_status get_line(struct machine *m, char line[MAX_GLOBAL])
{
    for (size_t i = 0; i < MAX_GLOBAL; i++) {
        imf_status status = reader_get(m->r, &line[i], 1, m->err);
        if (status != IMF_OK)
            return status;
        if (line[i] == '\0')
            return bad(m, "the name of a global holds a NUL");
        if (line[i] == '\n') {
            line[i] = '\0';
            return IMF_OK;
        }
    }
    return bad(m, "the name of a global is too long");
}

static imf_status global(struct machine *m)
{
    char module[MAX_GLOBAL], name[MAX_GLOBAL];
    imf_status status = get_line(m, module);
    if (status == IMF_OK)
        status = get_line(m, name);
    return status == IMF_OK ? push_global(m, module, name) : status;
}

static imf_status stack_global(struct machine *m)
{
    struct imf__pickle_value *name = pop(m), *module = pop(m);
    if (!name || !module || name->kind != IMF__PICKLE_STRING || module->kind != IMF__PICKLE_STRING)
        return bad(m, "a global whose name is no string");
    if (strlen(name->text) != name->length || strlen(module->text) != module->length)
        return bad(m, "the name of a global holds a NUL");
    return push_global(m, module->text, name->text);
}

/* REDUCE, NEWOBJ: global(*args) for a global of the table; what an object that was not built
 * returns is not built either. */
static imf_status call(struct machine *m)
{
    struct imf__pickle_value *args = pop(m), *callee = pop(m);
    if (args && callee && callee->kind == IMF__PICKLE_OPAQUE)
        return push(m, callee);
    if (!args || !callee || callee->kind != IMF__PICKLE_GLOBAL)
        return bad(m, "calls something that is no global");
    const char *reason = "";
    struct imf__pickle_value *v = imf__pickle_call(m->arena, callee->global, args, &reason);
    return v ? push(m, v) : bad(m, reason);
}

/* NEWOBJ_EX: the keyword arguments are on top. */
static imf_status call_with_keywords(struct machine *m)
{
    return pop(m) ? call(m) : bad(m, "the stack is empty");
}

/* BUILD sets attributes: a state dict's _metadata, a Namespace's fields. Nobody needs them. */
static imf_status build(struct machine *m)
{
    struct imf__pickle_value *state = pop(m), *object = top(m);
    return state && object ? IMF_OK : bad(m, "sets attributes of nothing");
}

static imf_status persistent_id(struct machine *m)
{
    struct imf__pickle_value *id = pop(m);
    if (!id)
        return bad(m, "the stack is empty");
    /* ("module", class, ...) stands for a class whose source text was saved along. */
    if (id->kind == IMF__PICKLE_TUPLE && id->count >= 2 && imf__pickle_is(id->items[0], "module"))
        return push(m, id->items[1]);
    const char *reason = "";
    struct imf__pickle_value *v = imf__pickle_storage(m->arena, id, &reason);
    if (!v)
        return bad(m, reason);
    v->storage->next = m->storages;
    m->storages = v->storage;
    return push(m, v);
}

/* ---- Opcodes --------------------------------------------------------------------------------- */

static const char *refused_name(uint8_t op)
{
    static const struct {
        uint8_t op;
        const char *name;
    } names[] = {
        {'i', "INST"},  {'o', "OBJ"},    {'P', "PERSID"},       {'I', "INT"},
        {'L', "LONG"},  {'S', "STRING"}, {'V', "UNICODE"},      {'F', "FLOAT"},
        {'p', "PUT"},   {'g', "GET"},    {'2', "DUP"},          {0x82, "EXT1"},
        {0x83, "EXT2"}, {0x84, "EXT4"},  {0x97, "NEXT_BUFFER"}, {0x98, "READONLY_BUFFER"},
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (names[i].op == op)
            return names[i].name;
    }
    return "unknown";
}

static imf_status skip_bytes(struct machine *m, size_t n)
{
    uint8_t bytes[8];
    return reader_get(m->r, bytes, n, m->err);
}

/* PROTO's argument. */
static imf_status protocol(struct machine *m)
{
    uint64_t n;
    imf_status status = get_number(m, 1, &n);
    if (status == IMF_OK && (n < 2 || n > 5))
        status = bad(m, "pickle protocol neither 2, 3, 4 nor 5");
    return status;
}

/* Opcodes whose argument is one number. */
static imf_status numbered(struct machine *m)
{
    static const struct {
        uint8_t op, bytes;
    } widths[] = {{'J', 4}, {'K', 1}, {'M', 2}, {'q', 1}, {'r', 4}, {'h', 1}, {'j', 4}};
    int bytes = 0;
    for (size_t i = 0; i < sizeof(widths) / sizeof(widths[0]); i++) {
        if (widths[i].op == m->op)
            bytes = widths[i].bytes;
    }
    uint64_t n;
    imf_status status = get_number(m, bytes, &n);
    if (status != IMF_OK)
        return status;
    switch (m->op) {
    case 'J': /* BININT, signed */
        return push_new(m, IMF__PICKLE_INT, (int32_t)(uint32_t)n);
    case 'K': /* BININT1 */
    case 'M': /* BININT2 */
        return push_new(m, IMF__PICKLE_INT, (int64_t)n);
    case 'q': /* BINPUT */
    case 'r': /* LONG_BINPUT */
        return memo_put(m, n);
    default: /* BINGET, LONG_BINGET */
        return memo_get(m, n);
    }
}

static imf_status set_item(struct machine *m, enum imf__pickle_kind kind, size_t n)
{
    struct imf__pickle_value *items[2];
    for (size_t i = n; i-- > 0;) {
        items[i] = pop(m);
        if (!items[i])
            return bad(m, "the stack is empty");
    }
    return add_items(m, kind, items, n);
}

static imf_status execute(struct machine *m)
{
    struct imf__pickle_value **first;
    size_t n;
    imf_status status;
    switch (m->op) {
    case 0x80:
        return protocol(m);
    case 0x95: /* FRAME */
        return skip_bytes(m, 8);
    case '(':
        return push(m, NULL);
    case '0': /* POP takes a mark, too */
        if (!m->depth)
            return bad(m, "the stack is empty");
        m->depth--;
        return IMF_OK;
    case '1': /* POP_MARK */
        return pop_mark(m, &first, &n) ? IMF_OK : bad(m, "no mark");
    case 'N':
        return push_empty(m, IMF__PICKLE_NONE);
    case 0x88: /* NEWTRUE */
    case 0x89: /* NEWFALSE */
        return push_new(m, IMF__PICKLE_BOOL, m->op == 0x88);
    case 'J':
    case 'K':
    case 'M':
    case 'q':
    case 'r':
    case 'h':
    case 'j':
        return numbered(m);
    case 0x8a: /* LONG1 */
        return push_long(m, 1);
    case 0x8b: /* LONG4 */
        return push_long(m, 4);
    case 'G': /* BINFLOAT */
        status = skip_bytes(m, 8);
        return status == IMF_OK ? push_empty(m, IMF__PICKLE_FLOAT) : status;
    case 'X': /* BINUNICODE */
    case 'T': /* BINSTRING */
        return push_text(m, IMF__PICKLE_STRING, 4);
    case 0x8c: /* SHORT_BINUNICODE */
    case 'U':  /* SHORT_BINSTRING */
        return push_text(m, IMF__PICKLE_STRING, 1);
    case 0x8d: /* BINUNICODE8 */
        return push_text(m, IMF__PICKLE_STRING, 8);
    case 'B': /* BINBYTES */
        return push_text(m, IMF__PICKLE_BYTES, 4);
    case 'C': /* SHORT_BINBYTES */
        return push_text(m, IMF__PICKLE_BYTES, 1);
    case 0x8e: /* BINBYTES8 */
    case 0x96: /* BYTEARRAY8 */
        return push_text(m, IMF__PICKLE_BYTES, 8);
    case ')':
        return push_empty(m, IMF__PICKLE_TUPLE);
    case ']':
    case 0x8f: /* EMPTY_SET: kept as a list */
        return push_empty(m, IMF__PICKLE_LIST);
    case '}':
        return push_empty(m, IMF__PICKLE_DICT);
    case 't':
        return marked(m, IMF__PICKLE_TUPLE);
    case 0x85: /* TUPLE1, TUPLE2, TUPLE3 */
    case 0x86:
    case 0x87:
        return tuple_of(m, m->op - 0x84u);
    case 'l':
    case 0x91: /* FROZENSET */
        return marked(m, IMF__PICKLE_LIST);
    case 'd':
        return marked(m, IMF__PICKLE_DICT);
    case 'a': /* APPEND */
        return set_item(m, IMF__PICKLE_LIST, 1);
    case 's': /* SETITEM */
        return set_item(m, IMF__PICKLE_DICT, 2);
    case 'e':  /* APPENDS */
    case 0x90: /* ADDITEMS */
        return add_marked(m, IMF__PICKLE_LIST);
    case 'u': /* SETITEMS */
        return add_marked(m, IMF__PICKLE_DICT);
    case 0x94: /* MEMOIZE */
        return memo_put(m, m->memoized);
    case 'c':
        return global(m);
    case 0x93:
        return stack_global(m);
    case 'R':  /* REDUCE */
    case 0x81: /* NEWOBJ */
        return call(m);
    case 0x92:
        return call_with_keywords(m);
    case 'b':
        return build(m);
    case 'Q': /* BINPERSID */
        return persistent_id(m);
    default:
        return imf__fail(m->err, IMF_EFORMAT,
                         "%s: pickle opcode 0x%02x (%s) before byte %llu: no state dict needs it, "
                         "refused",
                         m->r->file->label, m->op, refused_name(m->op),
                         (unsigned long long)imf__reader_tell(m->r));
    }
}

imf_status imf__pickle_run(struct imf__pickle *out, struct imf__arena *arena, struct imf__reader *r,
                           struct imf_error *err)
{
    struct machine m = {.arena = arena, .r = r, .err = err};
    m.unknown_end = &m.unknown;
    imf_status status;
    for (;;) {
        status = reader_get(r, &m.op, 1, err);
        if (status != IMF_OK)
            break;
        if (m.op == '.') { /* STOP */
            struct imf__pickle_value *v = pop(&m);
            if (v && m.depth == 0)
                *out = (struct imf__pickle){v, m.storages, m.unknown};
            else
                status = bad(&m, "the end leaves nothing, or more than one value");
            break;
        }
        status = execute(&m);
        if (status != IMF_OK)
            break;
    }
    free(m.stack);
    free(m.memo);
    return status;
}
