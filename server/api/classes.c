/* The class table, read from the embedded list at start. Lookups are a binary search over the
 * normalised synonyms; a search is one pass over them, 1860 short strings. */
#include "api/classes.h"
#include "base/embed.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern const struct embedded_file embedded_classes[];

enum { WORDNET_ID_LENGTH = 9 };

struct synonym {
    const char *normal; /* normalised, in `normal_text` */
    int class_index;
};

struct classes {
    char *text;                    /* the embedded list, cut into strings */
    char *normal_text;             /* the same names, normalised */
    const char **names, **normals; /* every synonym as given and normalised */
    struct synonym *sorted;        /* by normal, then class */
    int n_names, count;
    struct class_info *info;
};

/* Lower case, with '_', '-' and blanks as single blanks and none at the ends. dst has room for
 * length + 1 bytes. Returns the length written. */
static size_t normalise(char *dst, const char *src, size_t length)
{
    size_t n = 0;
    bool blank = false;
    for (size_t i = 0; i < length; i++) {
        char c = src[i];
        if (c == ' ' || c == '_' || c == '-' || c == '\t') {
            blank = n > 0;
            continue;
        }
        if (blank) {
            dst[n++] = ' ';
            blank = false;
        }
        dst[n++] = c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
    }
    dst[n] = '\0';
    return n;
}

static int compare_synonyms(const void *a, const void *b)
{
    const struct synonym *x = a, *y = b;
    int order = strcmp(x->normal, y->normal);
    return order != 0 ? order : x->class_index - y->class_index;
}

/* Cuts "id\tname, name\n" in place and files the names; returns the start of the next line. */
static char *parse_line(struct classes *c, char *line, int index, char **normal_end)
{
    char *tab = strchr(line, '\t'), *end = strchr(line, '\n');
    assert(tab && end && tab < end);
    *tab = *end = '\0';
    struct class_info *info = &c->info[index];
    info->wordnet_id = line;
    info->names = c->names + c->n_names;
    char *name = tab + 1;
    while (name) {
        char *comma = strstr(name, ", ");
        if (comma)
            *comma = '\0';
        c->names[c->n_names] = name;
        c->normals[c->n_names] = *normal_end;
        c->sorted[c->n_names] = (struct synonym){*normal_end, index};
        *normal_end += normalise(*normal_end, name, strlen(name)) + 1;
        c->n_names++;
        info->n_names++;
        name = comma ? comma + 2 : NULL;
    }
    info->name = info->names[0];
    return end + 1;
}

/* Takes `text`: lines of "id\tname, name". Every line ends in a line break; NULL text is refused.
 */
static struct classes *create(char *text, int count)
{
    struct classes *c = calloc(1, sizeof(*c));
    if (!c || !text) {
        free(c);
        free(text);
        return NULL;
    }
    c->text = text;
    c->count = count;
    size_t most_names = 1;
    for (const char *t = text; *t != '\0'; t++)
        most_names += *t == ',' || *t == '\n';
    c->normal_text = malloc(strlen(text) + most_names);
    c->names = calloc(most_names, sizeof(*c->names));
    c->normals = calloc(most_names, sizeof(*c->normals));
    c->sorted = calloc(most_names, sizeof(*c->sorted));
    c->info = calloc((size_t)count + 1, sizeof(*c->info));
    if (!c->normal_text || !c->names || !c->normals || !c->sorted || !c->info) {
        classes_destroy(c);
        return NULL;
    }
    char *line = c->text, *normal_end = c->normal_text;
    while (*line == '#')
        line = strchr(line, '\n') + 1;
    for (int i = 0; i < count; i++)
        line = parse_line(c, line, i, &normal_end);
    assert(*line == '\0');
    qsort(c->sorted, (size_t)c->n_names, sizeof(*c->sorted), compare_synonyms);
    return c;
}

struct classes *classes_create_imagenet(void)
{
    const struct embedded_file *file = &embedded_classes[0];
    size_t size = (size_t)(file->end - file->data);
    char *text = malloc(size + 1);
    if (text) {
        memcpy(text, file->data, size);
        text[size] = '\0';
    }
    return create(text, CLASSES_IMAGENET);
}

struct classes *classes_create_named(int count, const char *(*name)(void *user, int index),
                                     void *user)
{
    size_t room = (size_t)count * (CLASSES_MAX_QUERY + 3) + 1, used = 0;
    char *text = malloc(room);
    if (!text)
        return NULL;
    text[0] = '\0';
    for (int i = 0; i < count; i++) {
        char line[CLASSES_MAX_QUERY + 1];
        const char *given = name(user, i);
        int n = given ? snprintf(line, sizeof(line), "%s", given) : 0;
        for (char *c = line; n > 0 && *c != '\0'; c++) {
            if (*c == '\t' || *c == '\n')
                *c = ' ';
        }
        if (n <= 0)
            snprintf(line, sizeof(line), "class %d", i);
        used += (size_t)snprintf(text + used, room - used, "\t%s\n", line);
    }
    return create(text, count);
}

int classes_count(const struct classes *c)
{
    return c->count;
}

void classes_destroy(struct classes *c)
{
    if (!c)
        return;
    free(c->info);
    free(c->sorted);
    free(c->normals);
    free(c->names);
    free(c->normal_text);
    free(c->text);
    free(c);
}

const struct class_info *classes_get(const struct classes *c, int index)
{
    assert(index >= 0 && index < c->count);
    return &c->info[index];
}

/* First synonym not less than `normal`. */
static int lower_bound(const struct classes *c, const char *normal)
{
    int low = 0, high = c->n_names;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (strcmp(c->sorted[middle].normal, normal) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool all_digits(const char *s)
{
    for (; *s != '\0'; s++) {
        if (*s < '0' || *s > '9')
            return false;
    }
    return true;
}

static int find_wordnet_id(const struct classes *c, const char *id)
{
    /* The list is in the order of the ids (ILSVRC sorted them so). */
    int low = 0, high = c->count - 1;
    while (low <= high) {
        int middle = (low + high) / 2, order = strcmp(id, c->info[middle].wordnet_id);
        if (order == 0)
            return middle;
        if (order < 0)
            high = middle - 1;
        else
            low = middle + 1;
    }
    return -1;
}

/* Whether normalising took nothing but blanks from the ends: "-1" and "_1" are no index. */
static bool is_bare(const char *text, size_t length, size_t normal_length)
{
    while (length > 0 && (*text == ' ' || *text == '\t')) {
        text++;
        length--;
    }
    while (length > 0 && (text[length - 1] == ' ' || text[length - 1] == '\t'))
        length--;
    return length == normal_length;
}

enum class_match classes_find(const struct classes *c, const char *text, size_t length,
                              struct class_lookup *out)
{
    char normal[CLASSES_MAX_QUERY + 1];
    memset(out, 0, sizeof(*out));
    out->index = -1;
    if (length > CLASSES_MAX_QUERY || memchr(text, '\0', length))
        return CLASS_UNKNOWN;
    size_t n = normalise(normal, text, length);
    if (n == 0)
        return CLASS_UNKNOWN;
    bool bare = is_bare(text, length, n);
    if (bare && all_digits(normal)) {
        long index = n <= 4 ? strtol(normal, NULL, 10) : c->count;
        if (index >= c->count)
            return CLASS_UNKNOWN;
        out->index = (int)index;
        return CLASS_FOUND;
    }
    if (bare && n == WORDNET_ID_LENGTH && normal[0] == 'n' && all_digits(normal + 1)) {
        out->index = find_wordnet_id(c, normal);
        return out->index >= 0 ? CLASS_FOUND : CLASS_UNKNOWN;
    }
    int matches = 0;
    for (int i = lower_bound(c, normal); i < c->n_names; i++) {
        if (strcmp(c->sorted[i].normal, normal) != 0)
            break;
        if (matches > 0 && out->candidates[out->n_candidates - 1] == c->sorted[i].class_index)
            continue; /* one class may list two spellings of a name */
        if (out->n_candidates < CLASSES_MAX_CANDIDATES)
            out->candidates[out->n_candidates++] = c->sorted[i].class_index;
        matches++;
    }
    if (matches == 1) {
        out->index = out->candidates[0];
        out->n_candidates = 0;
        return CLASS_FOUND;
    }
    if (matches > 1)
        return CLASS_AMBIGUOUS;
    out->n_candidates = classes_search(c, normal, n, out->candidates, CLASSES_MAX_CANDIDATES);
    return CLASS_UNKNOWN;
}

enum { RANK_NONE = 3 };

/* 0: a name (or the id, or the index) begins with the query; 1: a word of a name does; 2: a name
 * contains it. */
static int rank_of(const struct classes *c, int index, const char *query, size_t length)
{
    const struct class_info *info = &c->info[index];
    char number[16];
    snprintf(number, sizeof(number), "%d", index);
    if (length == 0 || strncmp(info->wordnet_id, query, length) == 0 ||
        strncmp(number, query, length) == 0)
        return 0;
    int best = RANK_NONE;
    const char *const *normals = c->normals + (info->names - c->names);
    for (int i = 0; i < info->n_names; i++) {
        for (const char *at = strstr(normals[i], query); at; at = strstr(at + 1, query)) {
            int rank = at == normals[i] ? 0 : at[-1] == ' ' ? 1 : 2;
            if (rank < best)
                best = rank;
        }
    }
    return best;
}

int classes_search(const struct classes *c, const char *query, size_t length, int *out, int max)
{
    char normal[CLASSES_MAX_QUERY + 1];
    if (length > CLASSES_MAX_QUERY || memchr(query, '\0', length))
        return 0;
    size_t n = normalise(normal, query, length);
    int written = 0;
    for (int rank = 0; rank < RANK_NONE; rank++) {
        for (int i = 0; i < c->count && written < max; i++) {
            if (rank_of(c, i, normal, n) == rank)
                out[written++] = i;
        }
    }
    return written;
}
