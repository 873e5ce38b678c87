/* The text of /metrics: our counters, the scheduler's, the process's. */
#include "api/metrics.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static const int codes[] = {200, 204, 206, 304, 400, 401, 403, 404, 405, 406, 408, 413,
                            414, 415, 417, 429, 431, 499, 500, 501, 503, 504, 505, 0};
enum { N_CODES = sizeof(codes) / sizeof(codes[0]), N_BOUNDS = 14 };

static const double bounds[N_BOUNDS] = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
                                        0.1,    0.25,  0.5,    1,     2.5,  10,    60};

struct metrics {
    uint64_t requests[ROUTE_COUNT][HTTP_METHOD_COUNT][N_CODES];
    struct {
        uint64_t bucket[N_BOUNDS], count;
        double sum;
    } duration[ROUTE_COUNT];
    uint64_t rejected[REJECTED_COUNT];
    struct sched_stats stats; /* scratch: too large for a stack */
    double start_time;
};

static const char *const route_names[ROUTE_COUNT] = {
    [ROUTE_GENERATE] = "/v1/generate",
    [ROUTE_IMAGE] = "/v1/images/{model}/{class}/{seed}.{format}",
    [ROUTE_OPENAI] = "/v1/images/generations",
    [ROUTE_V2_INFER] = "/v2/models/{id}/infer",
    [ROUTE_V2_MODEL] = "/v2/models/{id}",
    [ROUTE_V2_SERVER] = "/v2",
    [ROUTE_V2_LIVE] = "/v2/health/live",
    [ROUTE_V2_READY] = "/v2/health/ready",
    [ROUTE_V2_MODEL_READY] = "/v2/models/{id}/ready",
    [ROUTE_MODELS] = "/v1/models",
    [ROUTE_MODEL] = "/v1/models/{id}",
    [ROUTE_CLASSES] = "/v1/classes",
    [ROUTE_CLASS] = "/v1/classes/{id}",
    [ROUTE_LIVEZ] = "/livez",
    [ROUTE_READYZ] = "/readyz",
    [ROUTE_HEALTH] = "/health",
    [ROUTE_METRICS] = "/metrics",
    [ROUTE_VERSION] = "/version",
    [ROUTE_OPENAPI] = "/openapi.json",
    [ROUTE_PAGE] = "/",
    [ROUTE_ASSET] = "/web",
    [ROUTE_UNKNOWN] = "other",
};

/* Seconds since the epoch at which this process started. */
static double process_start_time(void)
{
    FILE *f = fopen("/proc/self/stat", "re");
    unsigned long long ticks = 0;
    char line[1024];
    if (f) {
        char *at = fgets(line, sizeof(line), f) ? strrchr(line, ')') : NULL;
        /* Field 22; the one after ')' is the third. */
        for (int field = 2; at && field < 22; field++)
            at = strchr(at + 1, ' ');
        if (at)
            ticks = strtoull(at, NULL, 10);
        fclose(f);
    }
    struct timespec boot, real;
    clock_gettime(CLOCK_BOOTTIME, &boot);
    clock_gettime(CLOCK_REALTIME, &real);
    double now = (double)real.tv_sec + (double)real.tv_nsec * 1e-9;
    double up = (double)boot.tv_sec + (double)boot.tv_nsec * 1e-9;
    return now - up + (double)ticks / (double)sysconf(_SC_CLK_TCK);
}

struct metrics *metrics_create(void)
{
    struct metrics *m = calloc(1, sizeof(*m));
    if (m)
        m->start_time = process_start_time();
    return m;
}

void metrics_destroy(struct metrics *m)
{
    free(m);
}

void metrics_request(struct metrics *m, enum route route, enum http_method method, int status,
                     double seconds)
{
    int code = 0;
    while (codes[code] != status && codes[code] != 0)
        code++;
    m->requests[route][method][code]++;
    m->duration[route].count++;
    m->duration[route].sum += seconds;
    for (int i = 0; i < N_BOUNDS; i++) {
        if (seconds <= bounds[i]) {
            m->duration[route].bucket[i]++;
            break;
        }
    }
}

void metrics_rejected(struct metrics *m, enum rejection why)
{
    m->rejected[why]++;
}

/* ---- Text ------------------------------------------------------------------------------------ */

static void head(struct buffer *b, const char *name, const char *type, const char *help)
{
    buffer_printf(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void counter(struct buffer *b, const char *name, const char *help, double value)
{
    head(b, name, "counter", help);
    buffer_printf(b, "%s %.17g\n", name, value);
}

static void gauge(struct buffer *b, const char *name, const char *help, double value)
{
    head(b, name, "gauge", help);
    buffer_printf(b, "%s %.17g\n", name, value);
}

/* Samples of one histogram; `label` is "" or like `stage="step"`. Buckets come in not cumulated. */
static void histogram(struct buffer *b, const char *name, const char *label, const double *limits,
                      int n, const uint64_t *bucket, uint64_t count, double sum)
{
    uint64_t below = 0;
    const char *comma = label[0] != '\0' ? "," : "";
    for (int i = 0; i < n; i++) {
        below += bucket[i];
        buffer_printf(b, "%s_bucket{%s%sle=\"%g\"} %llu\n", name, label, comma, limits[i],
                      (unsigned long long)below);
    }
    buffer_printf(b, "%s_bucket{%s%sle=\"+Inf\"} %llu\n", name, label, comma,
                  (unsigned long long)count);
    const char *open = label[0] != '\0' ? "{" : "", *close = label[0] != '\0' ? "}" : "";
    buffer_printf(b, "%s_sum%s%s%s %.17g\n%s_count%s%s%s %llu\n", name, open, label, close, sum,
                  name, open, label, close, (unsigned long long)count);
}

static void write_requests(struct metrics *m, struct buffer *b)
{
    head(b, "imfd_requests_total", "counter", "Finished HTTP requests.");
    for (int r = 0; r < ROUTE_COUNT; r++) {
        for (int method = 0; method < HTTP_METHOD_COUNT; method++) {
            for (int c = 0; c < N_CODES; c++) {
                if (m->requests[r][method][c] == 0)
                    continue;
                char code[8] = "other";
                if (codes[c] != 0)
                    snprintf(code, sizeof(code), "%d", codes[c]);
                buffer_printf(b,
                              "imfd_requests_total{route=\"%s\",method=\"%s\",code=\"%s\"} %llu\n",
                              route_names[r], http_method_name((enum http_method)method), code,
                              (unsigned long long)m->requests[r][method][c]);
            }
        }
    }
    head(b, "imfd_request_duration_seconds", "histogram",
         "From the request line to the last byte handed to the kernel.");
    for (int r = 0; r < ROUTE_COUNT; r++) {
        if (m->duration[r].count == 0)
            continue;
        char label[80];
        snprintf(label, sizeof(label), "route=\"%s\"", route_names[r]);
        histogram(b, "imfd_request_duration_seconds", label, bounds, N_BOUNDS,
                  m->duration[r].bucket, m->duration[r].count, m->duration[r].sum);
    }
}

/* Entries of one device (two precisions, say) are one series: the first of them writes the sum. */
static void write_device(struct buffer *b, struct scheduler *s, int index)
{
    struct sched_device_status first, other;
    size_t weights = 0, arena = 0;
    sched_device_get(s, index, &first);
    if (!first.info)
        return;
    for (int i = 0; i < sched_device_count(s); i++) {
        sched_device_get(s, i, &other);
        if (!other.info || strcmp(other.info->device, first.info->device) != 0)
            continue;
        if (i < index)
            return;
        weights += other.weights_bytes;
        arena += other.arena_bytes;
    }
    buffer_printf(b, "imfd_device_memory_bytes{device=\"%s\",kind=\"weights\"} %zu\n",
                  first.info->device, weights);
    buffer_printf(b, "imfd_device_memory_bytes{device=\"%s\",kind=\"arena\"} %zu\n",
                  first.info->device, arena);
}

static const char *device_label(const struct sched_device_status *d)
{
    return d->info ? d->info->device : d->name;
}

static void write_device_up(struct buffer *b, struct scheduler *s, int index, bool stuck)
{
    struct sched_device_status first, other;
    bool up = true, hangs = false;
    sched_device_get(s, index, &first);
    for (int i = 0; i < sched_device_count(s); i++) {
        sched_device_get(s, i, &other);
        if (strcmp(device_label(&other), device_label(&first)) != 0)
            continue;
        if (i < index)
            return;
        up &= !other.failed && !other.stuck;
        hangs |= other.stuck;
    }
    buffer_printf(b, "imfd_device_%s{device=\"%s\"} %d\n", stuck ? "stuck" : "up",
                  device_label(&first), stuck ? hangs : up);
}

static void write_models(struct buffer *b, struct scheduler *s)
{
    struct sched_model_status status;
    head(b, "imfd_model_info", "gauge", "Models and the fingerprint that names their pictures.");
    for (int i = 0; i < sched_model_count(s); i++) {
        sched_model_get(s, i, &status);
        buffer_printf(b, "imfd_model_info{model=\"%s\",fingerprint=\"%s\"} 1\n", status.id,
                      status.info ? status.info->fingerprint : "");
    }
    head(b, "imfd_model_plain_matrices", "gauge",
         "Matrices that no library algorithm multiplies: a hundred times slower. 0 is as it should "
         "be.");
    for (int i = 0; i < sched_model_count(s); i++) {
        sched_model_get(s, i, &status);
        if (status.info)
            buffer_printf(b, "imfd_model_plain_matrices{model=\"%s\"} %d\n", status.id,
                          status.info->plain_matrices);
    }
    head(b, "imfd_device_up", "gauge", "0 when the device has failed, or does not answer.");
    for (int i = 0; i < sched_device_count(s); i++)
        write_device_up(b, s, i, false);
    head(b, "imfd_device_stuck", "gauge", "1 while the device gives no sign of life.");
    for (int i = 0; i < sched_device_count(s); i++)
        write_device_up(b, s, i, true);
    head(b, "imfd_device_memory_bytes", "gauge", "Memory that models hold on a device.");
    for (int i = 0; i < sched_device_count(s); i++)
        write_device(b, s, i);
}

static void write_rejected(struct metrics *m, struct buffer *b, const struct sched_stats *s)
{
    static const char *const names[REJECTED_COUNT] = {"rate", "address"};
    head(b, "imfd_rejected_total", "counter", "Requests refused at arrival.");
    for (int i = SCHED_ACCEPTED + 1; i < SCHED_REJECT_COUNT; i++)
        buffer_printf(b, "imfd_rejected_total{reason=\"%s\"} %llu\n",
                      sched_reject_name((enum sched_reject)i), (unsigned long long)s->rejected[i]);
    for (int i = 0; i < REJECTED_COUNT; i++)
        buffer_printf(b, "imfd_rejected_total{reason=\"%s\"} %llu\n", names[i],
                      (unsigned long long)m->rejected[i]);
    head(b, "imfd_cancelled_total", "counter",
         "Requests whose client went away, by the furthest phase one of their pictures was in.");
    for (int i = 0; i < SCHED_PHASE_COUNT; i++)
        buffer_printf(b, "imfd_cancelled_total{phase=\"%s\"} %llu\n",
                      sched_phase_name((enum sched_phase)i),
                      (unsigned long long)s->cancelled_requests[i]);
}

/* accepted = sent + failed + cancelled + those under way. */
static void write_accounts(struct buffer *b, const struct sched_stats *s)
{
    uint64_t cancelled = 0;
    counter(b, "imfd_accepted_images_total", "Pictures of the requests accepted.",
            (double)s->accepted_images);
    head(b, "imfd_cancelled_images_total", "counter",
         "Pictures whose client went away, by the phase they were in.");
    for (int i = 0; i < SCHED_PHASE_COUNT; i++) {
        buffer_printf(b, "imfd_cancelled_images_total{phase=\"%s\"} %llu\n",
                      sched_phase_name((enum sched_phase)i),
                      (unsigned long long)s->cancelled_images[i]);
        cancelled += s->cancelled_images[i];
    }
    const struct {
        const char *outcome;
        uint64_t n;
    } rows[] = {{"sent", s->sent_images}, {"failed", s->failed_images}, {"cancelled", cancelled}};
    head(b, "imfd_ended_images_total", "counter",
         "Accepted pictures by what became of them; each is counted once.");
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        buffer_printf(b, "imfd_ended_images_total{outcome=\"%s\"} %llu\n", rows[i].outcome,
                      (unsigned long long)rows[i].n);
}

static void write_stages(struct buffer *b, const struct sched_stats *s)
{
    char label[40];
    head(b, "imfd_batches_total", "counter", "Engine calls.");
    for (int i = 0; i <= SCHED_DECODE; i++)
        buffer_printf(b, "imfd_batches_total{stage=\"%s\"} %llu\n",
                      sched_stage_name((enum sched_stage)i), (unsigned long long)s->batch[i].count);
    head(b, "imfd_batch_size", "histogram", "Lanes per engine call.");
    for (int i = 0; i <= SCHED_DECODE; i++) {
        snprintf(label, sizeof(label), "stage=\"%s\"", sched_stage_name((enum sched_stage)i));
        histogram(b, "imfd_batch_size", label, sched_batch_bounds, SCHED_BATCH_BUCKETS,
                  s->batch[i].bucket, s->batch[i].count, s->batch[i].sum);
    }
    head(b, "imfd_stage_duration_seconds", "histogram", "Per engine call; encode: per picture.");
    for (int i = 0; i < SCHED_STAGE_COUNT; i++) {
        snprintf(label, sizeof(label), "stage=\"%s\"", sched_stage_name((enum sched_stage)i));
        histogram(b, "imfd_stage_duration_seconds", label, sched_duration_bounds,
                  SCHED_DURATION_BUCKETS, s->duration[i].bucket, s->duration[i].count,
                  s->duration[i].sum);
    }
    head(b, "imfd_queue_wait_seconds", "histogram",
         "From arrival to a picture's first evaluation.");
    histogram(b, "imfd_queue_wait_seconds", "", sched_duration_bounds, SCHED_DURATION_BUCKETS,
              s->queue_wait.bucket, s->queue_wait.count, s->queue_wait.sum);
}

/* What routers choose a replica by. */
static void write_load(struct buffer *b, struct scheduler *scheduler, const struct sched_stats *s,
                       double request_timeout)
{
    struct sched_model_status status;
    int n = sched_model_count(scheduler);
    head(b, "imfd_requests_waiting", "gauge", "Requests no picture of which has begun.");
    for (int i = 0; i < n; i++) {
        sched_model_get(scheduler, i, &status);
        buffer_printf(b, "imfd_requests_waiting{model=\"%s\"} %u\n", status.id,
                      s->model[i].waiting);
    }
    head(b, "imfd_requests_running", "gauge", "Requests with a picture past the queue.");
    for (int i = 0; i < n; i++) {
        sched_model_get(scheduler, i, &status);
        buffer_printf(b, "imfd_requests_running{model=\"%s\"} %u\n", status.id,
                      s->model[i].running);
    }
    head(b, "imfd_backlog_seconds", "gauge",
         "Predicted time until the model's devices have done all that is accepted.");
    for (int i = 0; i < n; i++) {
        sched_model_get(scheduler, i, &status);
        buffer_printf(b, "imfd_backlog_seconds{model=\"%s\"} %.6f\n", status.id,
                      s->model[i].backlog_us * 1e-6);
    }
    head(b, "imfd_backlog_ratio", "gauge", "The same as a share of request_timeout_ms, at most 1.");
    for (int i = 0; i < n; i++) {
        double share = s->model[i].backlog_us * 1e-6 / request_timeout;
        sched_model_get(scheduler, i, &status);
        buffer_printf(b, "imfd_backlog_ratio{model=\"%s\"} %.9f\n", status.id,
                      share < 1 ? share : 1);
    }
}

static void write_scheduler(struct metrics *m, struct buffer *b, struct scheduler *scheduler,
                            double request_timeout)
{
    struct sched_stats *s = &m->stats;
    sched_get_stats(scheduler, s);
    gauge(b, "imfd_queue_images", "Pictures that wait for their first evaluation.",
          s->queue_images);
    gauge(b, "imfd_queue_capacity_images", "Pictures that may wait.", s->queue_capacity);
    write_load(b, scheduler, s, request_timeout);
    gauge(b, "imfd_lanes", "Lanes of engines that hold a picture.", s->lanes);
    write_rejected(m, b, s);
    write_accounts(b, s);
    head(b, "imfd_images_total", "counter", "Pictures computed.");
    for (int i = 0; i < sched_model_count(scheduler); i++) {
        struct sched_model_status status;
        sched_model_get(scheduler, i, &status);
        for (int steps = 1; steps <= IMF_MAX_STEPS; steps++) {
            if (s->images[i][steps] > 0)
                buffer_printf(b, "imfd_images_total{model=\"%s\",steps=\"%d\"} %llu\n", status.id,
                              steps, (unsigned long long)s->images[i][steps]);
        }
    }
    write_stages(b, s);
    counter(b, "imfd_network_evaluations_total", "Network evaluations, lane by lane.",
            (double)s->network_evaluations);
    counter(b, "imfd_engine_busy_seconds_total", "Time engines spent computing.",
            (double)s->engine_busy_us * 1e-6);
    counter(b, "imfd_coalesced_total", "Pictures that joined an identical one in flight.",
            (double)s->coalesced);
    counter(b, "imfd_cache_hits_total", "Pictures served from the PNG cache.",
            (double)s->cache_hits);
    counter(b, "imfd_cache_misses_total", "Pictures looked for in the PNG cache in vain.",
            (double)s->cache_misses);
    counter(b, "imfd_memory_shortages_total",
            "Times that memory was short and the cache given back.", (double)s->memory_shortages);
    gauge(b, "imfd_cache_bytes", "Bytes of PNGs kept.", (double)s->cache_bytes);
}

static void write_connections(struct buffer *b, const struct http_server *http)
{
    struct http_counts c;
    http_server_counts(http, &c);
    const struct {
        const char *state;
        unsigned n;
    } states[] = {
        {"idle", c.idle}, {"reading", c.reading}, {"waiting", c.waiting}, {"writing", c.writing}};
    head(b, "imfd_connections", "gauge", "Open connections.");
    for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++)
        buffer_printf(b, "imfd_connections{state=\"%s\"} %u\n", states[i].state, states[i].n);
    counter(b, "imfd_connections_accepted_total", "Connections accepted.", (double)c.accepted);
    counter(b, "imfd_connections_timed_out_total", "Connections cut while sending a request.",
            (double)c.timed_out);
    counter(b, "imfd_connections_evicted_total", "Idle connections closed to make room.",
            (double)c.evicted);
    counter(b, "imfd_connections_refused_total",
            "Connections refused because their address has too many.", (double)c.refused);
    counter(b, "imfd_slow_readers_total", "Connections cut because the reply was not read.",
            (double)c.slow_readers);
}

static void write_process(struct metrics *m, struct buffer *b)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double cpu = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                 (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
    counter(b, "process_cpu_seconds_total", "User and system processor time.", cpu);
    gauge(b, "process_start_time_seconds", "Start of the process, since the epoch.", m->start_time);

    unsigned long virtual_pages = 0, resident_pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f) {
        if (fscanf(f, "%lu %lu", &virtual_pages, &resident_pages) != 2)
            virtual_pages = resident_pages = 0;
        fclose(f);
    }
    double page = (double)sysconf(_SC_PAGESIZE);
    gauge(b, "process_resident_memory_bytes", "Resident memory.", (double)resident_pages * page);
    gauge(b, "process_virtual_memory_bytes", "Virtual memory.", (double)virtual_pages * page);

    int open_files = 0;
    DIR *d = opendir("/proc/self/fd");
    if (d) {
        while (readdir(d))
            open_files++;
        closedir(d);
        open_files -= 3; /* ".", ".." and this directory */
    }
    struct rlimit limit;
    gauge(b, "process_open_fds", "Open descriptors.", open_files);
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
        gauge(b, "process_max_fds", "Most descriptors that may be open.", (double)limit.rlim_cur);
}

void metrics_write(struct metrics *m, struct buffer *out, struct scheduler *s,
                   const struct http_server *http, uint64_t log_lost, bool ready,
                   double request_timeout)
{
    head(out, "imfd_build_info", "gauge", "Version of this program.");
    buffer_printf(out, "imfd_build_info{version=\"%s\"} 1\n", imf_version());
    gauge(out, "imfd_ready", "1 when /readyz says so.", ready ? 1 : 0);
    write_models(out, s);
    write_requests(m, out);
    write_scheduler(m, out, s, request_timeout);
    write_connections(out, http);
    counter(out, "imfd_log_lines_lost_total", "Lines of the log that could not be written.",
            (double)log_lost);
    write_process(m, out);
}
