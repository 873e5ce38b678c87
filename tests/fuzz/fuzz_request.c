/* What a client asks for, as JSON or as a URL. Whatever is accepted must be within the bounds that
 * the scheduler asserts; whatever is refused must come with a sentence. The first byte chooses the
 * form. */
#include "api/inference.h"
#include "api/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* One model, "m". */
static struct imf_model_info info = {
    .classes = 1000, .image_width = 256, .image_height = 256, .defaults = {1, 7.5f, 0.2f, 0.8f}};

int sched_model_count(const struct scheduler *s)
{
    (void)s;
    return 1;
}

int sched_model_find(const struct scheduler *s, const char *id)
{
    (void)s;
    return strcmp(id, "m") == 0 ? 0 : -1;
}

void sched_model_get(struct scheduler *s, int model, struct sched_model_status *out)
{
    (void)s;
    (void)model;
    memset(out, 0, sizeof(*out));
    out->id = "m";
    out->info = &info;
}

uint64_t sched_retry_us(struct scheduler *s, int model, uint32_t n)
{
    (void)s;
    (void)model;
    (void)n;
    return 1;
}

static void check(bool condition)
{
    if (!condition)
        abort();
}

static void check_params(const struct api *a, const struct picture_params *p)
{
    check(p->model == 0 && p->n >= 1 && p->n <= (uint32_t)a->settings->max_n);
    check(p->priority >= 0 && p->priority <= 9 && p->timeout_ms >= 1);
    check(p->sampling.steps >= 1 && p->sampling.steps <= (int)a->settings->max_steps);
    check(isfinite(p->sampling.omega) && p->sampling.omega >= 1);
    check(p->sampling.t_min >= 0 && p->sampling.t_min <= p->sampling.t_max &&
          p->sampling.t_max <= 1);
    for (uint32_t i = 0; i < p->n; i++) {
        check(picture_label(p, i) >= 0 && picture_label(p, i) <= 1000);
        check(picture_seed(p, i) <= API_MAX_SEED);
    }
}

/* "class/file?query" */
static bool parse_url(struct api *a, const char *text, struct picture_params *p,
                      struct api_problem *problem)
{
    char class_name[CLASSES_MAX_QUERY + 1], file[64];
    const char *slash = strchr(text, '/');
    if (!slash)
        return api_problem_set(problem, API_NOT_FOUND, NULL, "no slash");
    size_t length = strcspn(slash + 1, "?");
    const char *query = slash[1 + length] == '?' ? slash + length + 2 : "";
    if ((size_t)(slash - text) >= sizeof(class_name) || length >= sizeof(file))
        return api_problem_set(problem, API_NOT_FOUND, NULL, "too long");
    memcpy(class_name, text, (size_t)(slash - text));
    class_name[slash - text] = '\0';
    memcpy(file, slash + 1, length);
    file[length] = '\0';
    return api_parse_resource(a, "m", class_name, file, query, p, problem);
}

/* A body of /v2: two bytes say how much of the rest is JSON. */
static bool parse_inference(struct api *a, const char *text, size_t size, struct picture_params *p,
                            struct api_problem *problem)
{
    if (size < 2)
        return api_problem_set(problem, API_BAD_REQUEST, NULL, "too short");
    size_t json = (size_t)(uint8_t)text[0] | (size_t)(uint8_t)text[1] << 8;
    struct infer_ask *ask = calloc(1, sizeof(*ask));
    bool good = ask && infer_parse(a, "m", text + 2, size - 2, json < size - 2 ? json : size - 2, p,
                                   ask, problem);
    if (good) {
        check(ask->n_outputs >= 1 && ask->n_outputs <= INFER_OUTPUTS && p->n <= INFER_MAX_N);
        for (uint32_t i = 0; i < p->n; i++) {
            const struct imf_sampling *s = &p->samplings[i];
            check(s->steps >= 1 && s->steps <= p->sampling.steps && s->omega >= 1 &&
                  s->t_min >= 0 && s->t_min <= s->t_max && s->t_max <= 1);
        }
    }
    infer_ask_free(ask);
    return good;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct api api;
    static struct settings settings = {.max_n = 100, .max_steps = 64, .request_timeout_ms = 60000};
    if (!api.imagenet) {
        api.imagenet = classes_create_imagenet();
        api.settings = &settings;
        api.models[0].info = &info;
        api.models[0].classes = api.imagenet;
    }
    if (size == 0)
        return 0;
    static char policies[3][8] = {"strict", "nearest", "ignore"};
    settings.size_policy = policies[data[0] / 3 % 3];
    char *text = malloc(size); /* exactly as long as the text and its terminator */
    if (!text)
        return 0;
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    struct picture_params params;
    struct api_problem problem = {0};
    bool good = data[0] >= 0xf0    ? parse_inference(&api, text, size - 1, &params, &problem)
                : data[0] % 3 == 0 ? api_parse_generate(&api, text, size - 1, &params, &problem)
                : data[0] % 3 == 1 ? api_parse_openai(&api, text, size - 1, &params, &problem)
                                   : parse_url(&api, text, &params, &problem);
    if (good) {
        check_params(&api, &params);
        picture_params_free(&params);
    } else {
        check(problem.message[0] != '\0');
    }
    free(text);
    return 0;
}
