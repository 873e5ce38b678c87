/* Pictures that are there already: a folder of files, or one array of an .npz. */
#include "evaluate/evaluate.h"

#include "common/error.h"
#include "files/npz.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

enum { PATH_SIZE = 4096, MAX_DEPTH = 16, MAX_SIDE = 16384 };

static const struct format {
    const char *name;
    const char *ends[2];
    imf_status (*read)(const char *path, uint8_t **rgb, int *width, int *height,
                       struct imf_error *err);
} formats[] = {
    {"PNG", {".png"}, eval_read_png},
    {"JPEG", {".jpg", ".jpeg"}, eval_read_jpeg},
    {"WebP", {".webp"}, eval_read_webp},
};
enum { FORMATS = sizeof(formats) / sizeof(formats[0]) };

struct eval_source {
    char *path;
    int64_t count;
    char **files; /* sorted paths, or NULL */
    struct imf__npz *npz;
    struct imf__npz_bytes *samples;
    pthread_mutex_t lock; /* of samples, where they are deflated */
    int width, height;
    int64_t of_format[FORMATS], others; /* files read, pictures of formats that are not */
};

/* ---- Folders ------------------------------------------------------------------------------- */

static bool ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);
    return n > m && strcasecmp(name + n - m, end) == 0;
}

/* FORMATS when it is none that is read here. */
static size_t format_of(const char *name)
{
    for (size_t f = 0; f < FORMATS; f++) {
        for (int i = 0; i < 2; i++) {
            if (formats[f].ends[i] && ends_with(name, formats[f].ends[i]))
                return f;
        }
    }
    return FORMATS;
}

static bool is_other_picture(const char *name)
{
    static const char *const ends[] = {".bmp",  ".gif", ".tif", ".tiff", ".avif",
                                       ".heic", ".jxl", ".jp2", ".ppm",  ".pgm"};
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        if (ends_with(name, ends[i]))
            return true;
    }
    return false;
}

static bool append(struct eval_source *s, int64_t *capacity, const char *path)
{
    if (s->count == *capacity) {
        int64_t more = *capacity ? 2 * *capacity : 1024;
        char **grown = realloc(s->files, (size_t)more * sizeof(*grown));
        if (!grown)
            return false;
        s->files = grown;
        *capacity = more;
    }
    char *copy = strdup(path);
    if (copy)
        s->files[s->count++] = copy;
    return copy != NULL;
}

static imf_status list(struct eval_source *s, int64_t *capacity, const char *folder, int depth,
                       struct imf_error *err)
{
    DIR *dir = opendir(folder);
    if (!dir)
        return imf__fail(err, IMF_EIO, "%s: %s", folder, strerror(errno));
    imf_status status = IMF_OK;
    for (struct dirent *e; status == IMF_OK && (e = readdir(dir));) {
        char path[PATH_SIZE];
        struct stat st;
        if (e->d_name[0] == '.' ||
            snprintf(path, sizeof(path), "%s/%s", folder, e->d_name) >= (int)sizeof(path) ||
            stat(path, &st) != 0)
            continue;
        if (S_ISDIR(st.st_mode)) {
            if (depth > 0)
                status = list(s, capacity, path, depth - 1, err);
            continue;
        }
        if (format_of(e->d_name) == FORMATS)
            s->others += is_other_picture(e->d_name);
        else if (!append(s, capacity, path))
            status = imf__fail(err, IMF_ENOMEM, "%s: out of memory", folder);
    }
    closedir(dir);
    return status;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static imf_status open_folder(struct eval_source *s, bool recursive, int64_t limit,
                              struct imf_error *err)
{
    int64_t capacity = 0;
    IMF_TRY(list(s, &capacity, s->path, recursive ? MAX_DEPTH : 0, err));
    if (s->count < 2 || (limit && s->count < limit))
        return imf__fail(
            err, IMF_EINVAL,
            "%s: %lld PNG, JPEG and WebP pictures there%s (%lld of other formats); %s", s->path,
            (long long)s->count, recursive ? "" : ", without --recursive for its folders",
            (long long)s->others, limit ? "fewer than --num-images" : "statistics need at least 2");
    qsort(s->files, (size_t)s->count, sizeof(*s->files), by_name);
    while (limit && s->count > limit)
        free(s->files[--s->count]);
    for (int64_t i = 0; i < s->count; i++)
        s->of_format[format_of(s->files[i])]++;
    return IMF_OK;
}

/* ---- Samples in an .npz -------------------------------------------------------------------- */

static imf_status open_npz(struct eval_source *s, int64_t limit, struct imf_error *err)
{
    IMF_TRY(imf__npz_open(&s->npz, s->path, err));
    const struct imf__npz_array *a = imf__npz_find(s->npz, "arr_0");
    if (!a)
        return imf__fail(err, IMF_EFORMAT, "%s: no array arr_0, which samples are called", s->path);
    if (a->ndim != 4 || a->shape[3] != 3 || a->shape[1] < 1 || a->shape[2] < 1 ||
        a->shape[1] > MAX_SIDE || a->shape[2] > MAX_SIDE)
        return imf__fail(err, IMF_EFORMAT,
                         "%s: arr_0 is not of shape (n, height, width, 3), pictures in RGB",
                         s->path);
    IMF_TRY(imf__npz_bytes_open(&s->samples, s->npz, a, err));
    s->count = (int64_t)a->shape[0];
    s->height = (int)a->shape[1];
    s->width = (int)a->shape[2];
    if (s->count < 2 || (limit && s->count < limit))
        return imf__fail(err, IMF_EINVAL, "%s: %lld pictures there; %s", s->path,
                         (long long)s->count,
                         limit ? "fewer than --num-images" : "statistics need at least 2");
    if (limit)
        s->count = limit;
    return IMF_OK;
}

static imf_status read_sample(struct eval_source *s, int64_t i, uint8_t **rgb, int *width,
                              int *height, struct imf_error *err)
{
    size_t bytes = (size_t)s->width * (size_t)s->height * 3;
    uint8_t *pixels = malloc(bytes);
    if (!pixels)
        return imf__fail(err, IMF_ENOMEM, "%s: out of memory", s->path);
    bool alone = imf__npz_bytes_packed(s->samples);
    if (alone)
        pthread_mutex_lock(&s->lock);
    imf_status status = imf__npz_bytes_read(s->samples, pixels, bytes, (uint64_t)i * bytes, err);
    if (alone)
        pthread_mutex_unlock(&s->lock);
    if (status != IMF_OK) {
        free(pixels);
        return status;
    }
    *rgb = pixels;
    *width = s->width;
    *height = s->height;
    return IMF_OK;
}

/* ---- Either -------------------------------------------------------------------------------- */

imf_status eval_source_open(struct eval_source **out, const char *path, bool recursive,
                            int64_t limit, struct imf_error *err)
{
    struct eval_source *s = calloc(1, sizeof(*s));
    if (!s || !(s->path = strdup(path))) {
        free(s);
        return imf__fail(err, IMF_ENOMEM, "out of memory");
    }
    pthread_mutex_init(&s->lock, NULL);
    imf_status status =
        ends_with(path, ".npz") ? open_npz(s, limit, err) : open_folder(s, recursive, limit, err);
    if (status == IMF_OK)
        *out = s;
    else
        eval_source_close(s);
    return status;
}

void eval_source_close(struct eval_source *s)
{
    if (!s)
        return;
    for (int64_t i = 0; s->files && i < s->count; i++)
        free(s->files[i]);
    free(s->files);
    imf__npz_bytes_close(s->samples);
    imf__npz_close(s->npz);
    pthread_mutex_destroy(&s->lock);
    free(s->path);
    free(s);
}

int64_t eval_source_count(const struct eval_source *s)
{
    return s->count;
}

void eval_source_describe(const struct eval_source *s, char text[160])
{
    size_t used = 0;
    if (s->npz) {
        snprintf(text, 160, "%lld samples of arr_0, %dx%d", (long long)s->count, s->width,
                 s->height);
        return;
    }
    text[0] = '\0';
    for (size_t f = 0; f < FORMATS; f++) {
        if (s->of_format[f] > 0)
            used += (size_t)snprintf(text + used, 160 - used, "%s%lld %s", used ? ", " : "",
                                     (long long)s->of_format[f], formats[f].name);
    }
    if (s->others > 0)
        snprintf(text + used, 160 - used, "; left out: %lld of other formats",
                 (long long)s->others);
}

imf_status eval_source_fingerprint(const struct eval_source *s, char text[33],
                                   struct imf_error *err)
{
    XXH3_state_t hash;
    XXH3_128bits_reset(&hash);
    int64_t n = s->files ? s->count : 1;
    for (int64_t i = 0; i < n; i++) {
        struct stat st;
        const char *path = s->files ? s->files[i] : s->path;
        if (stat(path, &st) != 0)
            return imf__fail(err, IMF_EIO, "%s: %s", path, strerror(errno));
        /* Below the folder: where that lies does not matter. */
        const char *name = s->files ? path + strlen(s->path) + 1 : "";
        uint64_t words[] = {(uint64_t)st.st_size, (uint64_t)st.st_mtim.tv_sec,
                            (uint64_t)st.st_mtim.tv_nsec};
        XXH3_128bits_update(&hash, name, strlen(name) + 1);
        XXH3_128bits_update(&hash, words, sizeof(words));
    }
    XXH128_hash_t h = XXH3_128bits_digest(&hash);
    snprintf(text, 33, "%016llx%016llx", (unsigned long long)h.high64, (unsigned long long)h.low64);
    return IMF_OK;
}

bool eval_source_in_order(const struct eval_source *s)
{
    return s->samples && imf__npz_bytes_packed(s->samples);
}

imf_status eval_source_read(struct eval_source *s, int64_t i, uint8_t **rgb, int *width,
                            int *height, struct imf_error *err)
{
    if (s->npz)
        return read_sample(s, i, rgb, width, height, err);
    return formats[format_of(s->files[i])].read(s->files[i], rgb, width, height, err);
}
