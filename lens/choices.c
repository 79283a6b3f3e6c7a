#include "lens/choices.h"

int choices_recall(const struct dl_backend *be, struct dl_ctx *ctx, const struct manifest_doc *d, json_t **out,
                   struct dl_err *e)
{
    const char *what;
    json_t *how, *kept = json_object_get(d->run, "choices");
    if (!(*out = json_object())) return dl_fail(e, DL_ENOMEM, "no memory for choices of kernels");
    if (!be->choose) return 0;
    json_object_foreach(kept, what, how) {
        const char *text = json_string_value(how);
        if (text && be->choose(ctx, what, text, e) == 0 && json_object_set(*out, what, how) == 0) continue;
        if (!text) dl_fail(e, DL_EINPUT, "run.choices: \"%.100s\" is not text", what);
        json_decref(*out);
        *out = NULL;
        return dl_fail(e, DL_ENOMEM, "no memory for choices of kernels");
    }
    return 0;
}

static void note(void *user, const char *what, const char *how) { manifest_choice(user, what, how); }

void choices_note(const struct dl_backend *be, struct dl_ctx *ctx, struct manifest *m)
{
    if (be->choices) be->choices(ctx, note, m);
}
