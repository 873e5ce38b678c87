/* Models: loading and memory planning. */
#include "core/model.h"
#include "common/clock.h"
#include "common/error.h"
#include "models/metadata.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void imf_model_params_init(struct imf_model_params *p)
{
    *p = (struct imf_model_params){.decoder = "none"};
}

#define DEFAULT_MAX_BATCH 8

/* ---- Forward passes, as the device runs them ---- */

imf_status imf__model_step_forward(void *ctx, int B)
{
    struct imf_model *m = ctx;
    return imf__meanflow_forward(&m->net, &m->arena, &m->net_input, B);
}

imf_status imf__model_decode_forward(void *ctx, int n)
{
    struct imf_model *m = ctx;
    return imf__decoder_forward(&m->decoder, &m->arena, m->rgb, m->net_input.z, n);
}

/* ---- Loading ---- */

static size_t latents_bytes(const struct imf_model *m, int B)
{
    return (size_t)B * m->z_count * sizeof(float);
}

static size_t params_bytes(int B)
{
    return (IMF__SCALARS + 2) * (size_t)B * sizeof(float);
}

static size_t pictures_bytes(const struct imf_model *m)
{
    const struct imf_model_info *info = &m->info;
    return (size_t)info->decode_batch * (size_t)info->image_height * (size_t)info->image_width * 3;
}

/* Room for a captured pass of a thousand launches; info.graph_bytes says what they took. */
#define GRAPH_BYTES ((size_t)512 << 10)

/* What a max_batch of B takes on the device beside weights and activations. */
static size_t buffer_bytes(const struct imf_model *m, int B)
{
    int lanes = B > m->info.decode_batch ? B : m->info.decode_batch;
    size_t slots = imf__slots_bytes(m, B);
    size_t bytes = latents_bytes(m, lanes) + params_bytes(B) + pictures_bytes(m) + slots;
    if (m->engine->dev->ops->transfer_create)
        bytes += (slots ? 0 : latents_bytes(m, B)) + IMF_DECODES * pictures_bytes(m);
    if (m->engine->dev->ops->graph_prepare)
        bytes += GRAPH_BYTES * (size_t)(B + m->info.decode_batch);
    return bytes;
}

/* Dry runs of every batch size: the device prepares its primitives, the arena learns its size. */
static imf_status plan(struct imf_model *m)
{
    struct imf__device *dev = m->engine->dev;
    size_t scratch = dev->scratch_bytes;
    imf_status status = IMF_OK;
    m->planned = calloc((size_t)m->info.max_batch, sizeof(*m->planned));
    if (!m->planned)
        return IMF_ENOMEM;
    dev->dry = true;
    for (int n = 1; n <= m->info.decode_batch && status == IMF_OK && m->info.image_width; n++)
        status = imf__model_decode_forward(m, n);
    for (int B = 1; B <= m->info.max_batch && status == IMF_OK; B++) {
        status = imf__model_step_forward(m, B);
        m->planned[B - 1] = m->arena.peak + dev->scratch_bytes - scratch + buffer_bytes(m, B);
    }
    dev->dry = false;
    return status;
}

/* Latents first, then scalars (4, max_batch), dt and labels (max_batch each), all 4 bytes wide. */
static void lay_out_input(struct imf_model *m)
{
    int batch = m->info.max_batch, decode = m->info.decode_batch;
    m->params_at = latents_bytes(m, batch > decode ? batch : decode);
    m->params_bytes = params_bytes(batch);
}

static void point_into_input(struct imf_model *m)
{
    float *params = (float *)(m->input + m->params_at);
    size_t batch = (size_t)m->info.max_batch;
    m->net_input = (struct imf__meanflow_input){
        .z = (float *)m->input,
        .scalars = params,
        .dt = params + IMF__SCALARS * batch,
        .labels = (int32_t *)(params + (IMF__SCALARS + 1) * batch),
        .max_batch = m->info.max_batch,
    };
}

static imf_status create_transfers(struct imf_model *m)
{
    struct imf__device *dev = m->engine->dev;
    size_t rgb = pictures_bytes(m);
    if (!m->slots)
        IMF_TRY(
            dev->ops->transfer_create(dev, &m->latents_out, latents_bytes(m, m->info.max_batch)));
    for (int i = 0; i < IMF_DECODES && rgb > 0; i++)
        IMF_TRY(dev->ops->transfer_create(dev, &m->pictures_out[i], rgb));
    return IMF_OK;
}

static imf_status allocate(struct imf_model *m)
{
    struct imf__device *dev = m->engine->dev;
    struct imf_model_info *info = &m->info;
    size_t rgb = pictures_bytes(m), input = m->params_at + m->params_bytes;
    IMF_TRY(dev->ops->alloc(dev, (void **)&m->arena.base, m->arena.peak, false));
    m->arena.size = m->arena.peak;
    IMF_TRY(dev->ops->alloc(dev, (void **)&m->input, input, false));
    IMF_TRY(dev->ops->alloc(dev, (void **)&m->rgb, rgb, false));
    IMF_TRY(imf__slots_create(m));
    if (dev->ops->transfer_create)
        IMF_TRY(create_transfers(m));
    m->staging = calloc(1, input);
    m->step_graphs = calloc((size_t)info->max_batch, sizeof(*m->step_graphs));
    m->decode_graphs = calloc((size_t)info->decode_batch, sizeof(*m->decode_graphs));
    if (!m->staging || !m->step_graphs || !m->decode_graphs)
        return IMF_ENOMEM;
    point_into_input(m);
    info->arena_bytes =
        m->arena.size + buffer_bytes(m, info->max_batch) + input + dev->scratch_bytes;
    return IMF_OK;
}

/* Graphs of every batch size, so that no request waits for one to be captured. */
static imf_status prepare_graphs(struct imf_model *m)
{
    struct imf__device *dev = m->engine->dev;
    if (!dev->ops->graph_prepare)
        return IMF_OK;
    size_t before = 0, after = 0;
    IMF_TRY(dev->ops->memory_free(dev, &before));
    IMF_TRY(dev->ops->graph_prepare(dev, m->step_graphs, imf__model_step_forward, m,
                                    m->info.max_batch));
    if (m->info.image_width)
        IMF_TRY(dev->ops->graph_prepare(dev, m->decode_graphs, imf__model_decode_forward, m,
                                        m->info.decode_batch));
    IMF_TRY(dev->ops->memory_free(dev, &after));
    m->info.graph_bytes = before > after ? before - after : 0;
    return IMF_OK;
}

static imf_status load_weights(struct imf_model *m, const struct imf_model_params *p,
                               struct imf_error *err)
{
    struct imf__loader ld;
    uint64_t net_print[2], decoder_print[2];
    IMF_TRY(imf__loader_open(&ld, p->checkpoint, p->checkpoint_key, m->engine->dev, err));
    ld.progress = p->progress;
    ld.progress_user = p->progress_user;
    imf_status status = imf__meanflow_load(&m->net, &ld);
    if (status == IMF_OK)
        status = imf__model_describe(m, &ld, p->noise_scale);
    imf__checkpoint_fingerprint(ld.ckpt, net_print);
    imf__loader_close(&ld);
    if (status != IMF_OK)
        return status;
    IMF_TRY(imf__decoder_load(&m->decoder, m->engine->dev, p->decoder ? p->decoder : "none",
                              m->net.channels, m->net.size, decoder_print, err));
    imf__model_fingerprint(m, net_print, decoder_print);
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

/* Left free beside what was asked for: allocations are rounded up to pages of 2 MB, and kernels are
 * loaded when they first run. Graphs are counted in buffer_bytes. */
#define DEVICE_MEMORY_MARGIN ((size_t)16 << 20)

/* Bytes that may be given to activations and buffers now that the weights are there; 0: unknown. */
static size_t room_for_batches(struct imf__device *dev)
{
    size_t room = dev->info.memory_free, weights = dev->weights_bytes;
    if (!dev->ops->memory_free)
        return room > weights ? room - weights : 0;
    if (dev->ops->memory_free(dev, &room) != IMF_OK)
        return 0;
    return room > DEVICE_MEMORY_MARGIN ? room - DEVICE_MEMORY_MARGIN : 1;
}

/* The sentence about memory: what was needed, what was there, which max_batch would fit. */
static imf_status out_of_memory(const struct imf_model *m, const char *checkpoint, size_t room,
                                struct imf_error *err)
{
    const struct imf__device *dev = m->engine->dev;
    int most = m->info.max_batch, B = most;
    if (!m->planned || m->planned[most - 1] == 0)
        return imf__fail(err, IMF_ENOMEM, "%s: not enough memory%s%s", checkpoint,
                         dev->error[0] ? ": " : "", dev->error);
    char advice[96] = "";
    while (B > 0 && m->planned[B - 1] > room)
        B--;
    if (room > 0 && B > 0)
        snprintf(advice, sizeof(advice), "; max_batch %d would fit", B);
    else if (room > 0)
        snprintf(advice, sizeof(advice),
                 "; not even max_batch 1 fits: choose a smaller decode_batch or model");
    return imf__fail(err, IMF_ENOMEM,
                     "%s: not enough %s memory for max_batch %d and decode_batch %d: %zu MB are "
                     "needed beside %zu MB of weights, %zu MB are free%s%s%s",
                     checkpoint, dev->info.device, most, m->info.decode_batch,
                     m->planned[most - 1] >> 20, m->info.weights_bytes >> 20, room >> 20, advice,
                     dev->error[0] ? "; " : "", dev->error);
}

static imf_status prepare(struct imf_model *m, const struct imf_model_params *p,
                          size_t weights_before, struct imf_error *err)
{
    struct imf__device *dev = m->engine->dev;
    m->z_count = (size_t)m->net.channels * (size_t)m->net.size * (size_t)m->net.size;
    describe_decoder(m, p);
    m->info.weights_bytes = dev->weights_bytes - weights_before;
    lay_out_input(m);
    m->net_input.max_batch = m->info.max_batch;
    size_t room = room_for_batches(dev);
    int plain = dev->plain_matrices;
    imf_status status = plan(m);
    m->info.plain_matrices = dev->plain_matrices - plain;
    if (m->info.plain_matrices)
        memcpy(m->info.plain_reason, dev->plain_reason, sizeof(m->info.plain_reason));
    if (status == IMF_OK)
        status = allocate(m);
    if (status == IMF_OK)
        status = prepare_graphs(m);
    if (status == IMF_ENOMEM)
        return out_of_memory(m, p->checkpoint, room, err);
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
    if (p->max_batch < 0 || p->max_batch > IMF_MAX_BATCH || p->decode_batch < 0 ||
        p->decode_batch > IMF_MAX_BATCH)
        return imf__fail(err, IMF_EINVAL, "max_batch and decode_batch must be 0..%d",
                         IMF_MAX_BATCH);
    if (!(p->noise_scale >= 0 && p->noise_scale <= 1000))
        return imf__fail(err, IMF_EINVAL, "the noise scale must be over 0 and at most 1000");
    double start = imf__seconds();
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
    m->info.load_seconds = imf__seconds() - start;
    *out = m;
    return IMF_OK;
}

const struct imf_model_info *imf_model_get_info(const struct imf_model *m)
{
    return &m->info;
}

const char *imf_model_class_name(const struct imf_model *m, int label)
{
    return m->class_names && label >= 0 && label < m->net.classes ? m->class_names[label] : NULL;
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
    imf__slots_destroy(m);
    if (dev->ops->transfer_free) {
        dev->ops->transfer_free(dev, m->latents_out);
        for (int i = 0; i < IMF_DECODES; i++)
            dev->ops->transfer_free(dev, m->pictures_out[i]);
    }
    free(m->staging);
    free(m->planned);
    imf__class_names_free(m->class_names, m->net.classes);
    imf__decoder_unload(&m->decoder);
    imf__meanflow_unload(&m->net);
    free(m);
}
