/* In the place of figure*.c in a build without cairo and pango (-DDLENS_CORE_ONLY=ON). */
#include "lens/figure.h"
#include "lens/plot.h"

static int refuse(struct dl_err *e)
{
    return dl_fail(
        e, DL_EUSAGE,
        "this dlens was built without figures (DLENS_CORE_ONLY); draw them with a full build from the same folder");
}

bool figure_built(void) { return false; }

int figure_columns(int n_cells)
{
    int c = 1;
    while ((int64_t)c * c < n_cells) c++;
    return c;
}

int figure_draw(const struct figure_spec *s, const char *path, struct dl_err *e)
{
    (void)s, (void)path;
    return refuse(e);
}

int figure_sweep(const char *dir, const struct manifest_doc *d, const struct figure_sweep *o,
                 void (*made)(void *ctx, const char *path), void *ctx, struct dl_err *e)
{
    (void)dir, (void)d, (void)o, (void)made, (void)ctx;
    return refuse(e);
}

int plot_draw(const struct plot_spec *s, const char *path, struct dl_err *e)
{
    (void)s, (void)path;
    return refuse(e);
}
