/* Which file of a folder holds the weights, and what files are that hold none. */
#include "files/checkpoint_parts.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

/* ---- Files that are something else ----------------------------------------------------------- */

static bool is_text(const uint8_t *head, size_t n, const char *word)
{
    size_t m = strlen(word);
    while (n && (*head == ' ' || (*head >= '\t' && *head <= '\r'))) {
        head++;
        n--;
    }
    return n >= m && strncasecmp((const char *)head, word, m) == 0;
}

const char *imf__foreign_format(const uint8_t *head, size_t n)
{
    static const struct {
        const char *word, *what;
    } texts[] = {
        {"version https://git-lfs", "a git-lfs pointer instead of the weights: run git lfs pull"},
        {"<!doctype html", "an HTML page instead of weights: was a login or a licence asked for?"},
        {"<html", "an HTML page instead of weights: was a login or a licence asked for?"},
        {"<?xml", "an XML text instead of weights: an error message of the download?"},
        {"{", "a JSON text instead of weights: an error message of the download?"},
        {"[", "a JSON text instead of weights: an error message of the download?"},
    };
    static const struct {
        size_t at, n;
        const char *bytes, *what;
    } magics[] = {
        {0, 2, "\x1f\x8b", "packed with gzip: unpack it first"},
        {0, 3, "BZh", "packed with bzip2: unpack it first"},
        {0, 6,
         "\xfd"
         "7zXZ\0",
         "packed with xz: unpack it first"},
        {0, 4, "\x28\xb5\x2f\xfd", "packed with zstd: unpack it first"},
        {0, 6, "7z\xbc\xaf\x27\x1c", "a 7-zip archive: unpack it first"},
        {0, 4, "Rar!", "a RAR archive: unpack it first"},
        {257, 5, "ustar", "a tar archive: unpack it first"},
        {0, 4, "GGUF", "a GGUF file, a format for language models: not read here"},
        {0, 8, "\x89HDF\r\n\x1a\n", "an HDF5 file: not read here"},
        {0, 6, "\x93NUMPY", "a NumPy array, not a checkpoint"},
        {0, 8, "\x89PNG\r\n\x1a\n", "a PNG picture, not a checkpoint"},
    };
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        if (is_text(head, n, texts[i].word))
            return texts[i].what;
    }
    for (size_t i = 0; i < sizeof(magics) / sizeof(magics[0]); i++) {
        if (n >= magics[i].at + magics[i].n &&
            memcmp(head + magics[i].at, magics[i].bytes, magics[i].n) == 0)
            return magics[i].what;
    }
    size_t printable = 0;
    while (printable < n && (isprint(head[printable]) || isspace(head[printable])))
        printable++;
    if (n > 0 && printable == n)
        return "a text instead of weights: an error message of the download?";
    return n == 0 ? "empty (0 bytes are no checkpoint): did the download fail?" : NULL;
}

/* ---- Folders --------------------------------------------------------------------------------- */

/* Names under which weights are published; the first that is there. */
static const char *const published[] = {
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.bin.index.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "model.pth",
    "model.pt",
};

/* A file of weights by its name, and none of what training leaves beside them. */
static bool could_be_weights(const char *name)
{
    static const char *const ends[] = {".safetensors", ".pth", ".pt", ".bin", ".ckpt"};
    static const char *const beside[] = {"optimizer", "scheduler",     "scaler",
                                         "rng_state", "random_states", "training_args"};
    size_t n = strlen(name);
    bool fits = false;
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        size_t m = strlen(ends[i]);
        fits = fits || (n > m && strcasecmp(name + n - m, ends[i]) == 0);
    }
    for (size_t i = 0; i < sizeof(beside) / sizeof(beside[0]); i++)
        fits = fits && strncmp(name, beside[i], strlen(beside[i])) != 0;
    return fits && name[0] != '.';
}

/* The only file in the folder that could be weights. */
static char *only_weights(const char *folder, struct imf_error *err)
{
    DIR *dir = opendir(folder);
    if (!dir) {
        imf__fail(err, IMF_EIO, "%.180s: %s", folder, strerror(errno));
        return NULL;
    }
    char first[256] = "", second[256] = "";
    bool distributed = false;
    for (struct dirent *e; (e = readdir(dir));) {
        size_t n = strlen(e->d_name);
        distributed = distributed || (n > 8 && strcmp(e->d_name + n - 7, ".distcp") == 0);
        if (could_be_weights(e->d_name))
            snprintf(first[0] ? second : first, sizeof(first), "%s", e->d_name);
    }
    closedir(dir);
    char *path = NULL;
    if (second[0])
        imf__fail(err, IMF_EINVAL,
                  "%.180s: holds several files of weights (%.60s, %.60s): name one", folder,
                  imf__quote(first).text, imf__quote(second).text);
    else if (distributed)
        imf__fail(err, IMF_EUNSUPPORTED,
                  "%.180s: shards of torch.distributed.checkpoint; turn them into one file with "
                  "python -m torch.distributed.checkpoint.format_utils dcp_to_torch",
                  folder);
    else if (!first[0])
        imf__fail(err, IMF_EIO,
                  "%.180s: a folder without weights (diffusion_pytorch_model.safetensors, "
                  "model.pth, ...)",
                  folder);
    else if (asprintf(&path, "%s/%s", folder, first) < 0) {
        path = NULL;
        imf__fail(err, IMF_ENOMEM, "%.180s: out of memory", folder);
    }
    return path;
}

char *imf__weights_in_folder(const char *folder, struct imf_error *err)
{
    for (size_t i = 0; i < sizeof(published) / sizeof(published[0]); i++) {
        char *path;
        if (asprintf(&path, "%s/%s", folder, published[i]) < 0) {
            imf__fail(err, IMF_ENOMEM, "%.180s: out of memory", folder);
            return NULL;
        }
        if (access(path, F_OK) == 0)
            return path;
        free(path);
    }
    return only_weights(folder, err);
}
