/* Models: loading, memory planning, and the two calls that generate. */
#include "model.h"
#include "error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void imf_model_params_init(struct imf_model_params *p)
{
    *p = (struct imf_model_params){.decoder = "none"};
}

#define DEFAULT_MAX_BATCH 8
#define MAX_BATCH_LIMIT 1024

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- Forward passes, as the device runs them ---- */

static imf_status step_forward(void *ctx, int B)
{
    struct imf_model *m = ctx;
    return imf__mit_forward(&m->mit, &m->arena, &m->mit_input, B);
}

static imf_status decode_forward(void *ctx, int n)
{
    struct imf_model *m = ctx;
    return imf__decoder_forward(&m->decoder, &m->arena, m->rgb, m->mit_input.z, n);
}

/* ---- Loading ---- */

/* Dry runs of every batch size: the device prepares its primitives, the arena learns its size. */
static imf_status plan(struct imf_model *m)
{
    struct imf__device *dev = m->engine->dev;
    imf_status status = IMF_OK;
    m->planned = calloc((size_t)m->info.max_batch, sizeof(*m->planned));
    if (!m->planned)
        return IMF_ENOMEM;
    dev->dry = true;
    for (int n = 1; n <= m->info.decode_batch && status == IMF_OK && m->info.image_width; n++)
        status = decode_forward(m, n);
    for (int B = 1; B <= m->info.max_batch && status == IMF_OK; B++) {
        status = step_forward(m, B);
        m->planned[B - 1] = m->arena.peak + dev->scratch_bytes;
    }
    dev->dry = false;
    return status;
}

/* Latents first, then scalars (4, max_batch), dt and labels (max_batch each), all 4 bytes wide. */
static void lay_out_input(struct imf_model *m)
{
    size_t batch = (size_t)m->info.max_batch;
    size_t latents = batch > (size_t)m->info.decode_batch ? batch : (size_t)m->info.decode_batch;
    m->params_at = latents * m->z_count * sizeof(float);
    m->params_bytes = (IMF__MIT_SCALARS + 2) * batch * sizeof(float);
}

static void point_into_input(struct imf_model *m)
{
    float *params = (float *)(m->input + m->params_at);
    size_t batch = (size_t)m->info.max_batch;
    m->mit_input = (struct imf__mit_input){
        .z = (float *)m->input,
        .scalars = params,
        .dt = params + IMF__MIT_SCALARS * batch,
        .labels = (int32_t *)(params + (IMF__MIT_SCALARS + 1) * batch),
        .max_batch = m->info.max_batch,
    };
}

static imf_status allocate(struct imf_model *m)
{
    struct imf__device *dev = m->engine->dev;
    struct imf_model_info *info = &m->info;
    size_t rgb =
        (size_t)info->decode_batch * (size_t)info->image_height * (size_t)info->image_width * 3;
    size_t input = m->params_at + m->params_bytes;
    IMF_TRY(dev->ops->alloc(dev, (void **)&m->arena.base, m->arena.peak, false));
    m->arena.size = m->arena.peak;
    IMF_TRY(dev->ops->alloc(dev, (void **)&m->input, input, false));
    IMF_TRY(dev->ops->alloc(dev, (void **)&m->rgb, rgb, false));
    m->staging = calloc(1, input);
    m->step_graphs = calloc((size_t)info->max_batch, sizeof(*m->step_graphs));
    m->decode_graphs = calloc((size_t)info->decode_batch, sizeof(*m->decode_graphs));
    if (!m->staging || !m->step_graphs || !m->decode_graphs)
        return IMF_ENOMEM;
    point_into_input(m);
    info->arena_bytes = m->arena.size + input * 2 + rgb + dev->scratch_bytes;
    return IMF_OK;
}

static imf_status load_weights(struct imf_model *m, const struct imf_model_params *p,
                               struct imf_error *err)
{
    struct imf__loader ld;
    uint64_t mit_print[2], decoder_print[2];
    IMF_TRY(imf__loader_open(&ld, p->checkpoint, m->engine->dev, err));
    ld.progress = p->progress;
    ld.progress_user = p->progress_user;
    imf_status status = imf__mit_load(&m->mit, &ld);
    if (status == IMF_OK)
        status = imf__model_describe(m, &ld);
    imf__checkpoint_fingerprint(ld.ckpt, mit_print);
    imf__loader_close(&ld);
    if (status != IMF_OK)
        return status;
    IMF_TRY(imf__decoder_load(&m->decoder, m->engine->dev, p->decoder ? p->decoder : "none",
                              m->mit.channels, m->mit.size, decoder_print, err));
    imf__model_fingerprint(m, mit_print, decoder_print);
    if (p->progress)
        p->progress(p->progress_user, 1.0);
    return IMF_OK;
}

static void describe_decoder(struct imf_model *m, const struct imf_model_params *p)
{
    struct imf_model_info *info = &m->info;
    strncpy(info->decoder, imf__decoder_name(m->decoder.kind), sizeof(info->decoder) - 1);
    info->decoder_parameters = m->decoder.parameters;
    info->decode_flops = m->decoder.flops;
    info->image_width = m->decoder.width;
    info->image_height = m->decoder.height;
    info->max_batch = p->max_batch ? p->max_batch : DEFAULT_MAX_BATCH;
    info->decode_batch = p->decode_batch ? p->decode_batch : m->engine->dev->decode_batch;
}

/* What would fit, for the message when max_batch does not: "" where the device does not say how
 * much memory it has. */
static const char *advise(const struct imf_model *m, char *text, size_t size)
{
    const struct imf__device *dev = m->engine->dev;
    size_t room = dev->info.memory_free, weights = dev->weights_bytes;
    int B = m->planned && room ? m->info.max_batch : -1;
    while (B > 0 && (m->planned[B - 1] == 0 || m->planned[B - 1] + weights > room))
        B--;
    text[0] = '\0';
    if (B > 0)
        snprintf(text, size, "; max_batch %d would fit", B);
    else if (B == 0)
        snprintf(text, size, "; not even max_batch 1 fits: choose a smaller decode_batch or model");
    return text;
}

static imf_status prepare(struct imf_model *m, const struct imf_model_params *p,
                          size_t weights_before, struct imf_error *err)
{
    struct imf__device *dev = m->engine->dev;
    char advice[96];
    m->z_count = (size_t)m->mit.channels * (size_t)m->mit.size * (size_t)m->mit.size;
    describe_decoder(m, p);
    m->info.weights_bytes = dev->weights_bytes - weights_before;
    lay_out_input(m);
    m->mit_input.max_batch = m->info.max_batch;
    imf_status status = plan(m);
    if (status == IMF_OK)
        status = allocate(m);
    if (status == IMF_ENOMEM)
        return imf__fail(err, status,
                         "%s: not enough %s memory for batches of %d: %zu MB of activations beside "
                         "%zu MB of weights%s%s%s",
                         p->checkpoint, dev->info.device, m->info.max_batch,
                         (m->arena.peak + dev->scratch_bytes) >> 20, m->info.weights_bytes >> 20,
                         advise(m, advice, sizeof(advice)), dev->error[0] ? "; " : "", dev->error);
    if (status != IMF_OK)
        return imf__fail(err, status, "%s: %s", p->checkpoint,
                         dev->error[0] ? dev->error : imf_status_sentence(status));
    return IMF_OK;
}

imf_status imf_model_load(struct imf_model **out, struct imf_engine *e,
                          const struct imf_model_params *p, struct imf_error *err)
{
    if (!p->checkpoint)
        return imf__fail(err, IMF_EINVAL, "no checkpoint given");
    if (p->max_batch < 0 || p->max_batch > MAX_BATCH_LIMIT || p->decode_batch < 0 ||
        p->decode_batch > MAX_BATCH_LIMIT)
        return imf__fail(err, IMF_EINVAL, "max_batch and decode_batch must be 0..%d",
                         MAX_BATCH_LIMIT);
    double start = seconds();
    struct imf_model *m = calloc(1, sizeof(*m));
    if (!m)
        return imf__fail(err, IMF_ENOMEM, "no memory for a model");
    m->engine = e;
    e->dev->error[0] = '\0';
    size_t weights_before = e->dev->weights_bytes;
    imf_status status = load_weights(m, p, err);
    if (status == IMF_OK)
        status = prepare(m, p, weights_before, err);
    if (status != IMF_OK) {
        imf_model_destroy(m);
        return status;
    }
    m->info.load_seconds = seconds() - start;
    *out = m;
    return IMF_OK;
}

const struct imf_model_info *imf_model_get_info(const struct imf_model *m)
{
    return &m->info;
}

const char *imf_model_class_name(const struct imf_model *m, int label)
{
    return m->class_names && label >= 0 && label < m->mit.classes ? m->class_names[label] : NULL;
}

static void free_graphs(struct imf__device *dev, struct imf__graph **graphs, int n)
{
    for (int i = 0; graphs && i < n; i++)
        dev->ops->graph_free(dev, graphs[i]);
    free(graphs);
}

void imf_model_destroy(struct imf_model *m)
{
    if (!m)
        return;
    struct imf__device *dev = m->engine->dev;
    free_graphs(dev, m->step_graphs, m->info.max_batch);
    free_graphs(dev, m->decode_graphs, m->info.decode_batch);
    dev->ops->free(dev, m->arena.base);
    dev->ops->free(dev, m->input);
    dev->ops->free(dev, m->rgb);
    free(m->staging);
    free(m->planned);
    imf__model_free_class_names(m);
    imf__decoder_unload(&m->decoder);
    imf__mit_unload(&m->mit);
    free(m);
}

/* ---- Generating ---- */

/* Point i of torch.linspace(1, 0, steps + 1) in float32, which counts from the nearer end. */
static float time_at(int i, int steps)
{
    float step = -1.0f / (float)steps;
    return i < (steps + 1) / 2 ? 1.0f + step * (float)i : -step * (float)(steps - i);
}

static void stage_lane(struct imf_model *m, const struct imf_lane *lane, int b)
{
    size_t batch = (size_t)m->info.max_batch, i = (size_t)b;
    float *scalars = (float *)(m->staging + m->params_at);
    float *dt = scalars + IMF__MIT_SCALARS * batch;
    int32_t *labels = (int32_t *)(dt + batch);
    const struct imf_sampling *s = &lane->sampling;
    float h = time_at(lane->step, s->steps) - time_at(lane->step + 1, s->steps);
    memcpy(m->staging + i * m->z_count * sizeof(float), lane->z, m->z_count * sizeof(float));
    scalars[IMF__MIT_OMEGA * batch + i] = 1.0f - 1.0f / s->omega;
    scalars[IMF__MIT_T_MIN * batch + i] = s->t_min;
    scalars[IMF__MIT_T_MAX * batch + i] = s->t_max;
    scalars[IMF__MIT_H * batch + i] = h;
    dt[i] = h;
    labels[i] = lane->label;
}

/* After a device failure nothing on that device can be trusted. */
static imf_status finish(struct imf_model *m, imf_status status)
{
    if (status == IMF_EDEVICE)
        m->engine->failed = true;
    return status;
}

static imf_status run_step(struct imf_model *m, int n)
{
    struct imf__device *dev = m->engine->dev;
    size_t latents = (size_t)n * m->z_count * sizeof(float);
    IMF_TRY(dev->ops->upload(dev, m->input, m->staging, latents));
    IMF_TRY(
        dev->ops->upload(dev, m->input + m->params_at, m->staging + m->params_at, m->params_bytes));
    IMF_TRY(dev->ops->graph_run(dev, &m->step_graphs[n - 1], step_forward, m, n));
    IMF_TRY(dev->ops->download(dev, m->staging, m->input, latents));
    return dev->ops->sync(dev);
}

imf_status imf_step(struct imf_model *m, struct imf_lane **lanes, int n)
{
    if (m->engine->failed)
        return IMF_EDEVICE;
    if (n < 1 || n > m->info.max_batch)
        return IMF_EINVAL;
    for (int i = 0; i < n; i++) {
        if (imf_lane_finished(lanes[i]) || lanes[i]->z_count != m->z_count)
            return IMF_EINVAL;
        stage_lane(m, lanes[i], i);
    }
    imf_status status = run_step(m, n);
    if (status != IMF_OK)
        return finish(m, status);
    for (int i = 0; i < n; i++) {
        memcpy(lanes[i]->z, m->staging + (size_t)i * m->z_count * sizeof(float),
               m->z_count * sizeof(float));
        lanes[i]->step++;
    }
    return IMF_OK;
}

static imf_status decode_piece(struct imf_model *m, struct imf_lane *const *lanes, int n,
                               uint8_t *rgb)
{
    struct imf__device *dev = m->engine->dev;
    size_t latent = m->z_count * sizeof(float);
    size_t picture = (size_t)m->info.image_height * (size_t)m->info.image_width * 3;
    for (int i = 0; i < n; i++) {
        if (lanes[i]->z_count != m->z_count)
            return IMF_EINVAL;
        memcpy(m->staging + (size_t)i * latent, lanes[i]->z, latent);
    }
    IMF_TRY(dev->ops->upload(dev, m->input, m->staging, (size_t)n * latent));
    IMF_TRY(dev->ops->graph_run(dev, &m->decode_graphs[n - 1], decode_forward, m, n));
    IMF_TRY(dev->ops->download(dev, rgb, m->rgb, (size_t)n * picture));
    return dev->ops->sync(dev);
}

imf_status imf_decode(struct imf_model *m, struct imf_lane *const *lanes, int n, uint8_t *rgb)
{
    if (m->engine->failed)
        return IMF_EDEVICE;
    if (!m->info.image_width)
        return IMF_EUNSUPPORTED;
    size_t picture = (size_t)m->info.image_height * (size_t)m->info.image_width * 3;
    for (int i = 0; i < n; i += m->info.decode_batch) {
        int piece = n - i < m->info.decode_batch ? n - i : m->info.decode_batch;
        imf_status status = decode_piece(m, lanes + i, piece, rgb + (size_t)i * picture);
        if (status != IMF_OK)
            return finish(m, status);
    }
    return n >= 1 ? IMF_OK : IMF_EINVAL;
}
