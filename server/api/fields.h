/* Fields of a request: from JSON, or a query, into checked values. Each function returns false (or
 * what it says) with *p filled in, whose param names the field. */
#ifndef API_FIELDS_H
#define API_FIELDS_H

#include "api/internal.h"

#include <cjson/cJSON.h>

/* The root object of a body, which the caller deletes, or NULL. */
cJSON *api_parse_body(const char *body, size_t length, struct api_problem *p);

/* Finds known fields into slots[], which is as long as the NULL-terminated names[]; null ones count
 * as absent. Sampling fields go to `sampling` and `given`. */
bool api_collect_fields(const struct api *a, const cJSON *root, const char *const *names,
                        const cJSON **slots, struct imf_sampling *sampling, unsigned *given,
                        struct api_problem *p);

bool api_field_integer(const cJSON *value, const char *name, uint64_t low, uint64_t high,
                       uint64_t *out, struct api_problem *p);
/* value NULL: *out stays as it is. The text belongs to the value. */
bool api_field_text(const cJSON *value, const char *name, const char **out, struct api_problem *p);
bool api_field_bool(const cJSON *value, const char *name, bool *out, struct api_problem *p);

/* Reads one sampling field by name. Returns 1 when it was one, 0 when not, -1 on a problem. `given`
 * remembers which were set, so that an alias beside its name is noticed. */
enum { GIVEN_STEPS = 1, GIVEN_OMEGA = 2, GIVEN_T_MIN = 4, GIVEN_T_MAX = 8 };
int api_field_sampling(const struct api *a, const char *name, double v, bool is_number,
                       struct imf_sampling *s, unsigned *given, struct api_problem *p);
/* output_format and output_compression (each may be NULL), the latter being the quality of JPEG and
 * WebP, for PNG without effect. */
bool api_field_encoding(const cJSON *format, const cJSON *compression, struct picture_params *out,
                        struct api_problem *p);
bool api_check_interval(const struct imf_sampling *s, struct api_problem *p);

#endif
