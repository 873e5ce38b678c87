/* What the settings*.c files share. Nothing here keeps state or is called on any but the thread
 * that starts the program. Failures set err (when not NULL) to a sentence that names the key, and
 * leave what was set so far to settings_free. */
#ifndef SETTINGS_INTERNAL_H
#define SETTINGS_INTERNAL_H

#include "settings/settings.h"

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>

enum { SETTINGS_MAX_ITEMS = 256 }; /* of a list */

/* ---- The table; table.c ---- */

enum setting_type {
    TYPE_TEXT,
    TYPE_CHOICE,
    TYPE_INTEGER,
    TYPE_BYTES,
    TYPE_LIST,
    TYPE_PAIRS,
    TYPE_MODELS
};

struct setting_row {
    const char *key;
    enum setting_type type;
    size_t offset;       /* in struct settings */
    const char *initial; /* default, in text form */
    int64_t low, high;   /* of numbers */
    const char *choices; /* "a|b|c" */
    const char *group;   /* heading in the manual; NULL: same as the row above */
    const char *help;    /* lines of at most 100 columns */
};

extern const struct setting_row settings__table[];
extern const int settings__row_count;

/* The row of a key, in which '-' stands for '_' too; -1 when there is none. */
int settings__find(const char *key, size_t length);

/* ---- One value; value.c ---- */

/* Sets row i from text; a list may be JSON. `append` keeps the items there are (a repeated flag).
 */
IMF_MUST_CHECK imf_status settings__set_text(struct settings *s, int i, const char *text,
                                             enum setting_origin origin, bool append,
                                             struct imf_error *err);
/* The same from the value that a configuration file gives it. */
IMF_MUST_CHECK imf_status settings__set_json(struct settings *s, int i, const cJSON *value,
                                             struct imf_error *err);
void settings__value_free(struct settings *s, int i);
/* The value as a file would give it; NULL when out of memory. The caller deletes it. */
cJSON *settings__value_json(const struct settings *s, int i);

/* ---- The list of models; models.c ---- */

void settings__models_free(struct model_settings *m);
/* "id=A,checkpoint=F,decoder=G;id=B,..." and [{"id": "A", ...}, ...]: both append. */
IMF_MUST_CHECK imf_status settings__models_parse_short(struct model_settings *m, const char *text,
                                                       struct imf_error *err);
IMF_MUST_CHECK imf_status settings__models_parse_json(struct model_settings *m, const cJSON *array,
                                                      struct imf_error *err);
/* Every field becomes a string; id and checkpoint must be given, ids must differ. */
IMF_MUST_CHECK imf_status settings__models_check(struct model_settings *m, struct imf_error *err);
cJSON *settings__models_json(const struct model_settings *m);

/* ---- The configuration file; file.c ---- */

/* Sets what the text gives; `name` is what errors call it. */
IMF_MUST_CHECK imf_status settings__read_text(struct settings *s, const char *text, size_t length,
                                              const char *name, struct imf_error *err);
IMF_MUST_CHECK imf_status settings__read_file(struct settings *s, const char *path,
                                              struct imf_error *err);

/* ---- Reading everything; settings.c ---- */

IMF_MUST_CHECK imf_status settings__set_defaults(struct settings *s, struct imf_error *err);

#endif
