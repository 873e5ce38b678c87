/* The state of an evaluation on disk, one set of files per rank in the workdir:
 *
 *   rank-R.state     settings, which blocks are done, the statistics' nodes; checksummed, and
 *                    replaced as a whole
 *   rank-R.logits    (record per block: 64 x 1008 float32), appended to
 *   rank-R.features  the same with 2048, where features are wanted
 *
 * Records are written before the state that counts them, so a kill at any moment leaves a state
 * whose records are all there; what was appended after it is overwritten. A run with fewer ranks
 * takes over the files of ranks that are no more: rank 0 copies their records and nodes, saves, and
 * only then removes them. Between those two steps blocks exist twice, which reading recognises. */
#include "evaluate/records.h"

#include "common/error.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

enum { PATH_SIZE = 4096, MAX_SETTINGS = 1 << 16, MAX_RANKS = 4096 };

static const char magic[16] = "imfd evaluate 2";

/* ---- Files --------------------------------------------------------------------------------- */

static void state_path(char path[PATH_SIZE], const struct eval_job *job, int rank,
                       const char *suffix)
{
    snprintf(path, PATH_SIZE, "%s/rank-%04d.%s", job->options.workdir, rank, suffix);
}

static imf_status write_failed(const struct eval_job *job, int cause, struct imf_error *err)
{
    return imf__fail(err, IMF_EIO, "%s: cannot be written: %s%s", job->options.workdir,
                     strerror(cause),
                     cause == ENOSPC || cause == EDQUOT
                         ? "; free some space and run the same command again, it goes on from the "
                           "last save"
                         : "");
}

static bool write_at(int fd, const void *data, size_t n, off_t offset)
{
    const char *p = data;
    while (n > 0) {
        ssize_t done = pwrite(fd, p, n, offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0) {
            if (done == 0)
                errno = ENOSPC;
            return false;
        }
        p += done;
        n -= (size_t)done;
        offset += done;
    }
    return true;
}

bool eval_read_at(int fd, void *data, size_t n, off_t offset)
{
    char *p = data;
    while (n > 0) {
        ssize_t done = pread(fd, p, n, offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0) {
            if (done == 0)
                errno = 0;
            return false;
        }
        p += done;
        n -= (size_t)done;
        offset += done;
    }
    return true;
}

/* Record i of a file of `width` numbers a picture; the last block's is padded with zeros. */
static bool put_record(int fd, int64_t i, int width, const float *x, int n)
{
    size_t bytes = (size_t)n * (size_t)width * sizeof(float), record = eval_record_bytes(width);
    off_t at = (off_t)((size_t)i * record);
    static const char zeros[4096];
    if (!write_at(fd, x, bytes, at))
        return false;
    for (size_t done = bytes; done < record;) {
        size_t n_zero = record - done < sizeof(zeros) ? record - done : sizeof(zeros);
        if (!write_at(fd, zeros, n_zero, at + (off_t)done))
            return false;
        done += n_zero;
    }
    return true;
}

/* ---- Saving -------------------------------------------------------------------------------- */

struct header {
    char magic[16];
    uint32_t settings_bytes, crc;       /* crc of everything after the header */
    int64_t blocks_done, nodes, blocks; /* nodes: of each statistics */
    double seconds;
};

struct sink {
    FILE *f;
    uLong crc;
    bool ok;
};

static void sink_put(struct sink *s, const void *data, size_t n)
{
    const unsigned char *p = data;
    s->ok = s->ok && fwrite(p, 1, n, s->f) == n;
    for (; n > 0; p += 1 << 20) {
        size_t piece = n < 1 << 20 ? n : 1 << 20;
        s->crc = crc32(s->crc, p, (uInt)piece);
        n -= piece;
    }
}

static void sink_nodes(struct sink *sink, const struct imf_stats *stats)
{
    for (size_t i = 0; i < imf_stats_node_count(stats); i++) {
        const struct imf_stats_node *node = imf_stats_node_at(stats, i);
        struct eval_node_header n = {node->level, node->index, node->n};
        sink_put(sink, &n, sizeof(n));
        sink_put(sink, node->mean, node->mean_n * sizeof(double));
        sink_put(sink, node->m2, node->m2_n * sizeof(double));
    }
}

static bool write_state(const struct eval_state *s, FILE *f)
{
    struct header h = {.settings_bytes = (uint32_t)strlen(s->job->settings),
                       .blocks_done = s->count,
                       .nodes = (int64_t)imf_stats_node_count(s->stats),
                       .blocks = s->job->blocks,
                       .seconds = s->seconds};
    memcpy(h.magic, magic, sizeof(magic));
    struct sink sink = {f, crc32(0, NULL, 0), fwrite(&h, sizeof(h), 1, f) == 1};
    sink_put(&sink, s->job->settings, h.settings_bytes);
    sink_put(&sink, s->blocks, (size_t)s->count * sizeof(*s->blocks));
    sink_nodes(&sink, s->stats);
    if (s->spatial) /* the same blocks, so as many nodes */
        sink_nodes(&sink, s->spatial);
    h.crc = (uint32_t)sink.crc;
    return sink.ok && fseek(f, 0, SEEK_SET) == 0 && fwrite(&h, sizeof(h), 1, f) == 1 &&
           fflush(f) == 0 && fsync(fileno(f)) == 0;
}

static void remove_rank(const struct eval_job *job, int rank)
{
    static const char *const suffixes[] = {"state", "state.tmp", "logits", "features"};
    char path[PATH_SIZE];
    for (int i = 0; i < 4; i++) {
        state_path(path, job, rank, suffixes[i]);
        unlink(path);
    }
}

imf_status eval_state_save(struct eval_state *s, double seconds, struct imf_error *err)
{
    char path[PATH_SIZE], temporary[PATH_SIZE];
    state_path(path, s->job, s->rank, "state");
    state_path(temporary, s->job, s->rank, "state.tmp"); /* a known name: kills leave it behind */
    s->seconds = seconds;
    if (fdatasync(s->logits) != 0 || (s->features >= 0 && fdatasync(s->features) != 0))
        return write_failed(s->job, errno, err);
    FILE *f = fopen(temporary, "wb");
    if (!f)
        return write_failed(s->job, errno, err);
    errno = 0;
    bool ok = write_state(s, f);
    int cause = errno;
    if (fclose(f) != 0 && ok) {
        ok = false;
        cause = errno;
    }
    if (ok && rename(temporary, path) != 0) {
        ok = false;
        cause = errno;
    }
    if (!ok) {
        unlink(temporary);
        return write_failed(s->job, cause, err);
    }
    for (int r = s->taken_from; r < s->taken_to; r++)
        remove_rank(s->job, r);
    s->taken_from = s->taken_to;
    return IMF_OK;
}

imf_status eval_state_add(struct eval_state *s, int64_t block, int n, const float *features,
                          const float *logits, const float *spatial, struct imf_error *err)
{
    if (!put_record(s->logits, s->count, IMF_LOGITS, logits, n) ||
        (s->features >= 0 && !put_record(s->features, s->count, IMF_FEATURES, features, n)))
        return write_failed(s->job, errno, err);
    imf_status status = imf_stats_add(s->stats, block, features, n, err);
    if (status == IMF_OK && s->spatial)
        status = imf_stats_add(s->spatial, block, spatial, n, err);
    if (status == IMF_OK)
        s->blocks[s->count++] = block;
    return status;
}

/* ---- Nodes ------------------------------------------------------------------------------------
 */

imf_status eval_node_buffer_init(struct eval_node_buffer *b, int dim, struct imf_error *err)
{
    b->mean_n = (size_t)dim;
    b->m2_n = (size_t)dim * ((size_t)dim + 1) / 2;
    b->mean = malloc(b->mean_n * sizeof(double));
    b->m2 = malloc(b->m2_n * sizeof(double));
    return b->mean && b->m2 ? IMF_OK : imf__fail(err, IMF_ENOMEM, "out of memory");
}

imf_status eval_node_buffer_put(const struct eval_node_buffer *b, struct imf_stats *stats,
                                struct imf_error *err)
{
    const struct imf_stats_node node = {.level = (int)b->header.level,
                                        .index = b->header.index,
                                        .n = b->header.n,
                                        .mean = b->mean,
                                        .m2 = b->m2,
                                        .mean_n = b->mean_n,
                                        .m2_n = b->m2_n};
    return imf_stats_put(stats, &node, err);
}

void eval_node_buffer_free(struct eval_node_buffer *b)
{
    free(b->mean);
    free(b->m2);
}

/* ---- Reading ------------------------------------------------------------------------------- */

struct saved {
    struct header h;
    char *settings;
    int64_t *blocks;
    FILE *f;
    uLong crc;
};

static bool take(struct saved *s, void *data, size_t n)
{
    if (fread(data, 1, n, s->f) != n)
        return false;
    for (unsigned char *p = data; n > 0; p += 1 << 20) {
        size_t piece = n < 1 << 20 ? n : 1 << 20;
        s->crc = crc32(s->crc, p, (uInt)piece);
        n -= piece;
    }
    return true;
}

static imf_status damaged(const char *path, struct imf_error *err)
{
    return imf__fail(err, IMF_EFORMAT,
                     "%s: damaged; delete the workdir's rank-* files, or pass --restart, to begin "
                     "again",
                     path);
}

/* The line around p in a settings text, as `"key":\tvalue`: where its value starts and how long it
 * is. */
static const char *value_of(const char *text, const char *p, int *length)
{
    while (p > text && p[-1] != '\n')
        p--;
    p += strcspn(p, ":\n");
    p += strspn(p, ":\t ");
    *length = (int)strcspn(p, ",\n");
    return p;
}

/* Names the first setting whose value differs; both texts are one-level JSON written by the same
 * code, a key per line. */
static imf_status settings_differ(const struct eval_job *job, const char *theirs,
                                  struct imf_error *err)
{
    const char *a = job->settings, *b = theirs;
    while (*a && *a == *b)
        a++, b++;
    int na, nb;
    const char *value_a = value_of(job->settings, a, &na), *value_b = value_of(theirs, b, &nb);
    const char *key = value_a;
    while (key > job->settings && key[-1] != '\n')
        key--;
    key += strspn(key, "\t \"");
    return imf__fail(err, IMF_EINVAL,
                     "%s holds an evaluation with other settings (%.*s: %.*s there, %.*s now): use "
                     "another --workdir, or --restart to discard it",
                     job->options.workdir, (int)strcspn(key, "\":\n"), key, nb, value_b, na,
                     value_a);
}

/* Header, settings and list of blocks. */
static imf_status saved_open(struct saved *s, const char *path, const struct eval_job *job,
                             struct imf_error *err)
{
    if (fread(&s->h, sizeof(s->h), 1, s->f) != 1 || memcmp(s->h.magic, magic, sizeof(magic)) != 0 ||
        s->h.settings_bytes > MAX_SETTINGS)
        return damaged(path, err);
    s->crc = crc32(0, NULL, 0);
    s->settings = calloc(1, s->h.settings_bytes + 1);
    if (!s->settings)
        return imf__fail(err, IMF_ENOMEM, "out of memory");
    if (!take(s, s->settings, s->h.settings_bytes))
        return damaged(path, err);
    if (s->h.blocks_done > 0 && strcmp(s->settings, job->settings) != 0)
        return settings_differ(job, s->settings, err);
    if (s->h.blocks_done == 0) /* a run that failed at once: nothing to go on from */
        return IMF_OK;
    if (s->h.blocks != job->blocks || s->h.blocks_done < 0 || s->h.blocks_done > job->blocks ||
        s->h.nodes < 0 || s->h.nodes > job->blocks)
        return damaged(path, err);
    s->blocks = calloc((size_t)s->h.blocks_done + 1, sizeof(*s->blocks));
    if (!s->blocks)
        return imf__fail(err, IMF_ENOMEM, "out of memory");
    if (!take(s, s->blocks, (size_t)s->h.blocks_done * sizeof(*s->blocks)))
        return damaged(path, err);
    for (int64_t i = 0; i < s->h.blocks_done; i++)
        if (s->blocks[i] < 0 || s->blocks[i] >= job->blocks)
            return damaged(path, err);
    return IMF_OK;
}

static imf_status saved_nodes(struct saved *s, const char *path, struct imf_stats *stats, int dim,
                              struct imf_error *err)
{
    struct eval_node_buffer b;
    imf_status status = eval_node_buffer_init(&b, dim, err);
    for (int64_t i = 0; i < s->h.nodes && status == IMF_OK; i++) {
        if (!take(s, &b.header, sizeof(b.header)) || !take(s, b.mean, b.mean_n * sizeof(double)) ||
            !take(s, b.m2, b.m2_n * sizeof(double)) || b.header.level < 0 || b.header.level > 60)
            status = damaged(path, err);
        else
            status = eval_node_buffer_put(&b, stats, err);
    }
    eval_node_buffer_free(&b);
    return status;
}

static imf_status saved_statistics(struct saved *saved, const char *path, struct eval_state *s,
                                   struct imf_error *err)
{
    IMF_TRY(saved_nodes(saved, path, s->stats, IMF_FEATURES, err));
    if (s->spatial)
        IMF_TRY(saved_nodes(saved, path, s->spatial, IMF_SPATIAL, err));
    return (uint32_t)saved->crc == saved->h.crc ? IMF_OK : damaged(path, err);
}

/* Copies the records of a rank that is no more behind ours; blocks we have already are skipped. */
static imf_status copy_records(struct eval_state *s, const struct saved *saved, int rank,
                               const uint8_t *have, struct imf_error *err)
{
    static const char *const suffixes[] = {"logits", "features"};
    int widths[] = {IMF_LOGITS, IMF_FEATURES}, to[] = {s->logits, s->features};
    float *record = malloc(eval_record_bytes(IMF_FEATURES));
    if (!record)
        return imf__fail(err, IMF_ENOMEM, "out of memory");
    imf_status status = IMF_OK;
    int64_t count = s->count;
    for (int k = 0; k < 2 && status == IMF_OK && to[k] >= 0; k++) {
        char path[PATH_SIZE];
        state_path(path, s->job, rank, suffixes[k]);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        count = s->count;
        size_t bytes = eval_record_bytes(widths[k]);
        for (int64_t i = 0; i < saved->h.blocks_done && status == IMF_OK; i++) {
            if (have[saved->blocks[i]])
                continue;
            if (fd < 0 || !eval_read_at(fd, record, bytes, (off_t)((size_t)i * bytes)))
                status = damaged(path, err);
            else if (!put_record(to[k], count, widths[k], record, EVAL_BLOCK))
                status = write_failed(s->job, errno, err);
            else
                s->blocks[count++] = saved->blocks[i];
        }
        if (fd >= 0)
            close(fd);
    }
    if (status == IMF_OK)
        s->count = count;
    free(record);
    return status;
}

/* Reads what rank `rank` of an earlier run saved; *found tells whether it left anything. */
static imf_status load(struct eval_state *s, int rank, bool *found, struct imf_error *err)
{
    char path[PATH_SIZE];
    state_path(path, s->job, rank, "state");
    struct saved saved = {.f = fopen(path, "rb")};
    *found = saved.f != NULL;
    if (!saved.f)
        return errno == ENOENT ? IMF_OK : imf__fail(err, IMF_EIO, "%s: %s", path, strerror(errno));
    uint8_t *have = calloc((size_t)s->job->blocks, 1);
    imf_status status =
        have ? saved_open(&saved, path, s->job, err) : imf__fail(err, IMF_ENOMEM, "out of memory");
    if (status == IMF_OK && saved.h.blocks_done == 0)
        goto out;
    for (int64_t b = 0; status == IMF_OK && b < s->job->blocks; b++)
        have[b] = imf_stats_has(s->stats, b);
    if (status == IMF_OK)
        status = saved_statistics(&saved, path, s, err);
    if (status == IMF_OK && rank == s->rank) {
        memcpy(s->blocks, saved.blocks, (size_t)saved.h.blocks_done * sizeof(*s->blocks));
        s->count = saved.h.blocks_done;
        struct stat st;
        size_t need = (size_t)s->count * eval_record_bytes(IMF_LOGITS);
        if (fstat(s->logits, &st) != 0 || (uint64_t)st.st_size < need)
            status = damaged(path, err);
    } else if (status == IMF_OK) {
        status = copy_records(s, &saved, rank, have, err);
    }
    if (status == IMF_OK && saved.h.seconds > s->seconds)
        s->seconds = saved.h.seconds;
    /* Nodes and list must tell of the same blocks. */
    for (int64_t i = 0; status == IMF_OK && i < s->count; i++)
        if (!imf_stats_has(s->stats, s->blocks[i]) ||
            (s->spatial && !imf_stats_has(s->spatial, s->blocks[i])))
            status = damaged(path, err);
out:
    fclose(saved.f);
    free(saved.settings);
    free(saved.blocks);
    free(have);
    return status;
}

static int open_records(const struct eval_job *job, int rank, const char *suffix)
{
    char path[PATH_SIZE];
    state_path(path, job, rank, suffix);
    return open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
}

imf_status eval_state_open(struct eval_state **out, const struct eval_job *job,
                           const struct imfd_ranks *ranks, struct imf_error *err)
{
    struct eval_state *s = calloc(1, sizeof(*s));
    if (!s)
        return imf__fail(err, IMF_ENOMEM, "out of memory");
    s->job = job;
    s->rank = ranks->mpi.rank;
    s->features = -1;
    s->logits = open_records(job, s->rank, "logits");
    if (job->want_features && s->logits >= 0)
        s->features = open_records(job, s->rank, "features");
    s->blocks = calloc((size_t)job->blocks, sizeof(*s->blocks));
    imf_status status;
    if (s->logits < 0 || (job->want_features && s->features < 0))
        status = write_failed(job, errno, err);
    else if (!s->blocks)
        status = imf__fail(err, IMF_ENOMEM, "out of memory");
    else
        status = imf_stats_create(&s->stats, IMF_FEATURES, job->blocks, err);
    if (status == IMF_OK && job->want_spatial)
        status = imf_stats_create(&s->spatial, IMF_SPATIAL, job->blocks, err);
    bool found;
    if (status == IMF_OK)
        status = load(s, s->rank, &found, err);
    if (s->rank == 0) {
        s->taken_from = s->taken_to = ranks->mpi.size;
        /* A gap in the numbers cannot be: ranks are numbered from 0 and removed from `size` on. */
        for (int r = ranks->mpi.size; status == IMF_OK && r < MAX_RANKS; r++) {
            status = load(s, r, &found, err);
            if (found)
                s->taken_to = r + 1;
        }
    }
    if (status == IMF_OK) {
        *out = s;
        return IMF_OK;
    }
    eval_state_close(s);
    return status;
}

void eval_state_close(struct eval_state *s)
{
    if (!s)
        return;
    if (s->logits >= 0)
        close(s->logits);
    if (s->features >= 0)
        close(s->features);
    imf_stats_destroy(s->stats);
    imf_stats_destroy(s->spatial);
    free(s->blocks);
    free(s);
}

void eval_state_remove(const struct eval_job *job)
{
    for (int r = 0; r < MAX_RANKS; r++)
        remove_rank(job, r);
}

void eval_state_remove_own(const struct eval_job *job, int rank)
{
    remove_rank(job, rank);
}

double eval_state_seconds(const struct eval_state *s)
{
    return s->seconds;
}

const struct imf_stats *eval_state_stats(const struct eval_state *s)
{
    return s->stats;
}

const struct imf_stats *eval_state_spatial(const struct eval_state *s)
{
    return s->spatial;
}

imf_status eval_state_done(const struct eval_state *s, const struct imfd_ranks *ranks,
                           uint8_t *done, struct imf_error *err)
{
    size_t n = (size_t)s->job->blocks;
    memset(done, 0, n);
    for (int64_t i = 0; i < s->count; i++)
        done[s->blocks[i]] = 1;
    if (ranks->mpi.size == 1)
        return IMF_OK;
    uint8_t *all = malloc(n * (size_t)ranks->mpi.size);
    if (!all)
        return imf__fail(err, IMF_ENOMEM, "out of memory");
    ranks->mpi.gather_all(all, done, (int)n);
    imf_status status = IMF_OK;
    for (size_t b = 0; b < n; b++) {
        int holders = 0;
        for (int r = 0; r < ranks->mpi.size; r++)
            holders += all[(size_t)r * n + b];
        done[b] = holders > 0;
        if (holders > 1)
            status =
                imf__fail(err, IMF_EFORMAT,
                          "%s: block %zu was saved by two ranks; pass --restart to begin again",
                          s->job->options.workdir, b);
    }
    free(all);
    return status;
}
