/* Files are known by their tensors, as `imfd inspect` has it, not by their names. */
#include "cli/model_dir.h"
#include "common/error.h"
#include "imf.h"

#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_DEPTH = 3, MAX_FILES = 1000 };

struct search {
    struct imfd_model_dir *found;
    struct imf_error *err;
    int files;
};

/* What may hold weights; shards are found through their index. */
static bool is_weights(const char *name)
{
    static const char *const suffixes[] = {".safetensors", ".pth",  ".pt",
                                           ".bin",         ".ckpt", ".safetensors.index.json"};
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++) {
        size_t m = strlen(suffixes[i]);
        if (n > m && strcmp(name + n - m, suffixes[i]) == 0)
            return !strstr(name, "-of-");
    }
    return false;
}

/* The same weights in two formats, as published folders have them: safetensors is read. */
static bool are_twins(const char *a, const char *b)
{
    const char *dot = strrchr(a, '.');
    return dot && strncmp(a, b, (size_t)(dot - a) + 1) == 0 && !strchr(b + (dot - a) + 1, '/');
}

static imf_status keep(struct search *s, char **place, const char *path, const char *what)
{
    if (*place && are_twins(*place, path)) {
        const char *dot = strrchr(path, '.');
        if (strcmp(dot, ".safetensors") != 0)
            return IMF_OK;
        free(*place);
        *place = NULL;
    }
    if (*place)
        return imf__fail(s->err, IMF_EINVAL, "model_dir: %s and %s: two %ss, one is expected",
                         *place, path, what);
    *place = strdup(path);
    return *place ? IMF_OK : IMF_ENOMEM;
}

/* What is no checkpoint at all is passed over: tokenizers, optimizers, pictures. */
static imf_status look_at(struct search *s, const char *path)
{
    char name[64];
    switch (imf_file_identify(path, name)) {
    case IMF_FILE_OTHER:
        break;
    case IMF_FILE_DECODER:
        return keep(s, &s->found->decoder, path, "decoder");
    case IMF_FILE_MODEL:
        snprintf(s->found->name, sizeof(s->found->name), "%s", name[0] ? name : "model");
        return keep(s, &s->found->checkpoint, path, "checkpoint");
    }
    return IMF_OK;
}

static imf_status look_into(struct search *s, const char *folder, int depth)
{
    struct dirent **entries;
    int n = scandir(folder, &entries, NULL, alphasort);
    if (n < 0)
        return depth > 0 ? IMF_OK
                         : imf__fail(s->err, IMF_EIO, "model_dir: %s cannot be read", folder);
    imf_status status = IMF_OK;
    for (int i = 0; i < n; i++) {
        const char *name = entries[i]->d_name;
        char path[4096];
        struct stat info;
        int length = snprintf(path, sizeof(path), "%s/%s", folder, name);
        /* Names with a dot in front are what Kubernetes and git keep for themselves. */
        if (status == IMF_OK && name[0] != '.' && length < (int)sizeof(path) &&
            stat(path, &info) == 0) {
            if (S_ISDIR(info.st_mode) && depth < MAX_DEPTH)
                status = look_into(s, path, depth + 1);
            else if (S_ISREG(info.st_mode) && is_weights(name) && ++s->files <= MAX_FILES)
                status = look_at(s, path);
        }
        free(entries[i]);
    }
    free(entries);
    return status;
}

imf_status imfd_model_dir_find(struct imfd_model_dir *out, const char *path, struct imf_error *err)
{
    *out = (struct imfd_model_dir){.name = ""};
    struct search s = {.found = out, .err = err};
    imf_status status = look_into(&s, path, 0);
    if (status == IMF_OK && !out->checkpoint)
        status = imf__fail(err, IMF_EINVAL,
                           "model_dir: none of the %d weights files in %s is a "
                           "model's checkpoint",
                           s.files, path);
    if (status == IMF_OK && !out->decoder && !(out->decoder = strdup("none")))
        status = IMF_ENOMEM;
    if (status != IMF_OK)
        imfd_model_dir_free(out);
    return status;
}

void imfd_model_dir_free(struct imfd_model_dir *d)
{
    free(d->checkpoint);
    free(d->decoder);
    *d = (struct imfd_model_dir){.name = ""};
}
