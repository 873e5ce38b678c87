/* Predicted time per stage on a named GPU: the model runs once on the counting device
 * (engine/roofline), which adds up max(bytes / bandwidth, FLOPs / rate) + launch cost over the
 * launches that the CUDA device would make: at the GPU's peaks, which no kernel beats, and at what
 * kernels of a kind reach, which is the estimate. The floor is the model's arithmetic at the peak.
 */
#include "cli/bench_roofline.h"
#include "core/engine.h"
#include "roofline/roofline.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static cJSON *row_object(const struct imf__roofline_row *row, double rate)
{
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "stage", row->stage);
    cJSON_AddNumberToObject(o, "launches", row->launches);
    cJSON_AddNumberToObject(o, "gflop", row->flops / 1e9);
    cJSON_AddNumberToObject(o, "megabytes", row->bytes / 1e6);
    cJSON_AddNumberToObject(o, "seconds", row->seconds);
    cJSON_AddNumberToObject(o, "estimate_seconds", row->estimate);
    cJSON_AddNumberToObject(o, "floor_seconds", row->useful_flops / rate);
    return o;
}

static cJSON *part_object(struct imf__device *d, const char *name, int batch)
{
    const struct imf__gpu *gpu = imf__roofline_gpu(d);
    double rate = d->precision == IMF_PRECISION_BF16 ? gpu->bf16_flops : gpu->f32_flops;
    const struct imf__roofline_row *rows;
    int n = imf__roofline_rows(d, &rows);
    struct imf__roofline_row total = imf__roofline_total(d);
    cJSON *part = row_object(&total, rate), *stages = cJSON_CreateArray();
    cJSON_ReplaceItemInObject(part, "stage", cJSON_CreateString(name));
    cJSON_AddNumberToObject(part, "batch", batch);
    for (int i = 0; i < n; i++)
        cJSON_AddItemToArray(stages, row_object(&rows[i], rate));
    cJSON_AddItemToObject(part, "stages", stages);
    return part;
}

/* One step and one decoding of `batch` lanes, counted apart. */
static imf_status count_batch(cJSON *parts, struct imf__device *d, struct imf_model *m,
                              struct imf_lane **lanes, int batch, uint8_t *rgb)
{
    imf__roofline_reset(d);
    imf_status status = imf_step(m, lanes, batch);
    if (status != IMF_OK)
        return status;
    cJSON_AddItemToArray(parts, part_object(d, "step", batch));
    imf__roofline_reset(d);
    status = imf_decode(m, lanes, batch, rgb);
    if (status == IMF_OK)
        cJSON_AddItemToArray(parts, part_object(d, "decode", batch));
    return status;
}

cJSON *imfd_roofline_count(struct imf_engine *e, struct imf_model *m, struct imf_lane **lanes,
                           const int *batches, int n_batches, struct imf_error *err)
{
    struct imf__device *d = imf__engine_device(e);
    const struct imf_model_info *info = imf_model_get_info(m);
    size_t picture = (size_t)info->image_width * (size_t)info->image_height * 3;
    uint8_t *rgb = calloc((size_t)info->max_batch, picture ? picture : 1);
    cJSON *results = cJSON_CreateObject(), *parts = cJSON_CreateArray();
    imf_status status = rgb ? IMF_OK : IMF_ENOMEM;
    cJSON_AddStringToObject(results, "gpu", imf__roofline_gpu(d)->describe);
    cJSON_AddStringToObject(results, "model", info->name);
    cJSON_AddStringToObject(results, "decoder", info->decoder);
    cJSON_AddStringToObject(results, "precision", imf_precision_name(d->precision));
    cJSON_AddItemToObject(results, "parts", parts);
    for (int i = 0; i < n_batches && status == IMF_OK; i++) {
        for (int k = 0; k < batches[i] && status == IMF_OK; k++)
            status = imf_lane_start(lanes[k], m, 0, (uint64_t)k, &info->defaults, err);
        if (status == IMF_OK)
            status = count_batch(parts, d, m, lanes, batches[i], rgb);
    }
    free(rgb);
    if (status == IMF_OK)
        return results;
    if (err->message[0] == '\0')
        snprintf(err->message, sizeof(err->message), "%s", imf_status_sentence(status));
    err->status = status;
    cJSON_Delete(results);
    return NULL;
}

static double number(const cJSON *o, const char *key)
{
    return cJSON_GetNumberValue(cJSON_GetObjectItem(o, key));
}

static void print_row(const cJSON *row, const char *indent)
{
    double estimate = number(row, "estimate_seconds"), least = number(row, "seconds");
    printf("%s%-*s %8.0f %11.1f %11.1f %10.3f %10.3f %11.3f", indent, 30 - (int)strlen(indent),
           cJSON_GetStringValue(cJSON_GetObjectItem(row, "stage")), number(row, "launches"),
           number(row, "gflop"), number(row, "megabytes"), 1e3 * number(row, "floor_seconds"),
           1e3 * least, 1e3 * estimate);
    printf("  %5.2f\n", estimate > 0.0 ? least / estimate : 0.0);
}

static void print_total(int batch, double floor, double least, double estimate)
{
    printf("batch %d: estimated %.1f ms, %.1f pictures/s; %.1f ms at peak rates, %.1f ms for the "
           "model's FLOPs alone\n",
           batch, 1e3 * estimate, batch / estimate, 1e3 * least, 1e3 * floor);
}

void imfd_roofline_print(const cJSON *results)
{
    printf("%s, decoder %s, in %s, predicted for one\n%s\n",
           cJSON_GetStringValue(cJSON_GetObjectItem(results, "model")),
           cJSON_GetStringValue(cJSON_GetObjectItem(results, "decoder")),
           cJSON_GetStringValue(cJSON_GetObjectItem(results, "precision")),
           cJSON_GetStringValue(cJSON_GetObjectItem(results, "gpu")));
    double estimate = 0.0, least = 0.0, floor = 0.0;
    int batch = 0;
    const cJSON *parts = cJSON_GetObjectItem(results, "parts");
    for (const cJSON *part = parts ? parts->child : NULL; part; part = part->next) {
        if ((int)number(part, "batch") != batch) {
            batch = (int)number(part, "batch");
            estimate = least = floor = 0.0;
            printf(
                "\nbatch %-24d launches       GFLOP          MB   FLOPs ms    peak ms estimate ms  "
                "share\n",
                batch);
        }
        const cJSON *stages = cJSON_GetObjectItem(part, "stages");
        for (const cJSON *row = stages->child; row; row = row->next)
            print_row(row, "  ");
        print_row(part, "");
        estimate += number(part, "estimate_seconds");
        least += number(part, "seconds");
        floor += number(part, "floor_seconds");
        if (!part->next || (int)number(part->next, "batch") != batch)
            print_total(batch, floor, least, estimate);
    }
}
