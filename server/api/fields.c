/* The fields of fields.h. */
#include "api/fields.h"
#include "base/json_read.h"
#include "http/text.h"

#include <math.h>
#include <string.h>

bool api_field_integer(const cJSON *value, const char *name, uint64_t low, uint64_t high,
                       uint64_t *out, struct api_problem *p)
{
    double v = cJSON_IsNumber(value) ? value->valuedouble : NAN;
    if (!(v == floor(v)))
        return api_problem_set(p, API_INVALID, name, "%s: a whole number is expected%s", name,
                               cJSON_IsString(value) ? ", not a string" : "");
    if (v < (double)low || v > (double)high)
        return api_problem_set(p, API_INVALID, name, "%s: %.17g is outside %llu to %llu", name, v,
                               (unsigned long long)low, (unsigned long long)high);
    *out = (uint64_t)v;
    return true;
}

static bool check_float(double v, const char *name, double low, double high, float *out,
                        struct api_problem *p)
{
    if (!isfinite(v) || v < low || v > high) {
        if (high < 2)
            return api_problem_set(p, API_INVALID, name, "%s: %g is outside %g to %g", name, v, low,
                                   high);
        return api_problem_set(p, API_INVALID, name, "%s: %g is not a number of at least %g", name,
                               v, low);
    }
    *out = (float)(v + 0.0); /* -0 becomes 0: equal parameters have equal bits */
    return true;
}

bool api_check_interval(const struct imf_sampling *s, struct api_problem *p)
{
    char low[32], high[32];
    if (s->t_min <= s->t_max)
        return true;
    format_float(low, s->t_min);
    format_float(high, s->t_max);
    return api_problem_set(p, API_INVALID, "t_min", "t_min: %s is above t_max, which is %s", low,
                           high);
}

int api_field_sampling(const struct api *a, const char *name, double v, bool is_number,
                       struct imf_sampling *s, unsigned *given, struct api_problem *p)
{
    static const struct {
        const char *name;
        unsigned bit;
    } names[] = {{"steps", GIVEN_STEPS},          {"num_inference_steps", GIVEN_STEPS},
                 {"num_steps", GIVEN_STEPS},      {"omega", GIVEN_OMEGA},
                 {"guidance_scale", GIVEN_OMEGA}, {"cfg_scale", GIVEN_OMEGA},
                 {"t_min", GIVEN_T_MIN},          {"t_max", GIVEN_T_MAX}};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(names[i].name, name) != 0)
            continue;
        const char *field = names[i].name;
        bool good = true;
        if (*given & names[i].bit) {
            api_problem_set(p, API_INVALID, field, "%s: given twice, or beside its alias", field);
            return -1;
        }
        *given |= names[i].bit;
        if (!is_number) {
            api_problem_set(p, API_INVALID, field, "%s: a number is expected", field);
            return -1;
        }
        switch (names[i].bit) {
        case GIVEN_STEPS:
            if (v != floor(v) || v < 1 || v > (double)a->settings->max_steps)
                good = api_problem_set(p, API_INVALID, field,
                                       "%s: %g is not a whole number from 1 to %d", field, v,
                                       (int)a->settings->max_steps);
            else
                s->steps = (int)v;
            break;
        case GIVEN_OMEGA:
            good = check_float(v, field, 1, IMF_MAX_OMEGA, &s->omega, p);
            break;
        case GIVEN_T_MIN:
            good = check_float(v, field, 0, 1, &s->t_min, p);
            break;
        default:
            good = check_float(v, field, 0, 1, &s->t_max, p);
            break;
        }
        return good ? 1 : -1;
    }
    return 0;
}

bool api_field_encoding(const cJSON *format, const cJSON *compression, struct picture_params *out,
                        struct api_problem *p)
{
    const char *name = NULL;
    uint64_t quality = API_QUALITY;
    if (!api_field_text(format, "output_format", &name, p) ||
        (compression && !api_field_integer(compression, "output_compression", 0, 100, &quality, p)))
        return false;
    out->format_given = name != NULL;
    out->quality = (uint8_t)quality;
    for (int f = 0; name; f++) {
        if (f == PICTURE_FORMATS)
            return api_problem_set(p, API_INVALID, "output_format",
                                   "output_format: \"png\", \"jpeg\" or \"webp\" is expected");
        if (strcmp(name, picture_format_name(f)) == 0) {
            picture_params_format(out, f);
            break;
        }
    }
    return true;
}

cJSON *api_parse_body(const char *body, size_t length, struct api_problem *p)
{
    struct imf__json_fault fault;
    cJSON *root = json_read(body, length, &fault);
    if (root && cJSON_IsObject(root))
        return root;
    if (root)
        api_problem_set(p, API_BAD_JSON, NULL, "the body is not a JSON object");
    else if (fault.no_memory)
        api_problem_memory(p);
    else if (fault.twice)
        api_problem_twice(p, fault.key);
    else
        api_problem_set(p, API_BAD_JSON, NULL, "the body is not valid JSON: %s (near byte %zu)",
                        fault.why, fault.at);
    cJSON_Delete(root);
    return NULL;
}

/* Names each key may have; the index is what a parser switches on. */
static int field_index(const char *const *names, const char *name)
{
    for (int i = 0; names[i]; i++) {
        if (strcmp(names[i], name) == 0)
            return i;
    }
    return -1;
}

bool api_collect_fields(const struct api *a, const cJSON *root, const char *const *names,
                        const cJSON **slots, struct imf_sampling *sampling, unsigned *given,
                        struct api_problem *p)
{
    uint64_t seen = 0;
    for (const cJSON *field = root->child; field; field = field->next) {
        int i = field_index(names, field->string);
        if (i >= 0) {
            if (seen & UINT64_C(1) << i)
                return api_problem_set(p, API_INVALID, names[i], "%s: given twice", names[i]);
            seen |= UINT64_C(1) << i;
            if (!cJSON_IsNull(field))
                slots[i] = field;
            continue;
        }
        /* null means "not given", which still must be a name we know. */
        struct imf_sampling ignored = *sampling;
        bool null = cJSON_IsNull(field);
        unsigned none = 0;
        int found = api_field_sampling(a, field->string, null ? 1 : field->valuedouble,
                                       null || cJSON_IsNumber(field), null ? &ignored : sampling,
                                       null ? &none : given, p);
        if (found < 0)
            return false;
        if (found == 0)
            return api_problem_unknown(p, "field", field->string);
    }
    return true;
}

bool api_field_text(const cJSON *value, const char *name, const char **out, struct api_problem *p)
{
    if (!value)
        return true;
    if (!cJSON_IsString(value))
        return api_problem_set(p, API_INVALID, name, "%s: a string is expected", name);
    *out = value->valuestring;
    return true;
}

bool api_field_bool(const cJSON *value, const char *name, bool *out, struct api_problem *p)
{
    if (!value)
        return true;
    if (!cJSON_IsBool(value))
        return api_problem_set(p, API_INVALID, name, "%s: true or false is expected", name);
    *out = cJSON_IsTrue(value);
    return true;
}
