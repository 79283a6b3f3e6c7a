#include "lens/figure.h"
#include "lens/report.h"
#include "tools/gen.h"

#include <inttypes.h>
#include <unistd.h>

int gen_read_folder(const char *dir, struct manifest_doc *d, struct dl_err *e)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/manifest.json", dir);
    if (access(path, F_OK) < 0)
        return dl_fail(e, DL_EINPUT,
                       "%s: no folder with a manifest.json; dlens sweep and dlens replay make such folders", dir);
    return manifest_read(d, dir, e);
}

void gen_figure_made(void *user, const char *path)
{
    struct gen_figures *f = user;
    json_array_append_new(f->list, cli_string(path));
    int n = snprintf(f->line + f->at, 4096 - f->at, "%s%s", f->at ? "\n" : "", path);
    if (n > 0 && f->at + (size_t)n < 4096)
        f->at += (size_t)n;
    else
        f->line[f->at] = 0;
}

int gen_report(struct cli *c, const char *dir, const struct manifest_doc *d, const struct report_opts *o, char *line,
               struct dl_err *e)
{
    char path[4096], size[32], full[32];
    struct report_made made;
    if (report_path(path, sizeof path, dir, o, e) < 0 || report_write(dir, d, o, &made, e) < 0) return -1;
    if (made.cell_px && !o->cell_px)
        cli_say(c,
                "%s: the page would take about %s at full size, so its pictures are reduced to %d pixels "
                "(--cell and --max-size say otherwise)",
                path, cli_bytes(full, made.full_bytes), made.cell_px);
    cli_say(c, "report: %s, %s, %" PRId64 " picture%s%s", path, cli_bytes(size, made.bytes), made.pictures,
            made.pictures == 1 ? "" : "s", made.missing ? ", and empty frames for those that are missing" : "");
    json_object_set_new(c->result, "report",
                        json_pack("{s:o, s:I, s:I, s:I, s:i, s:i}", "path", cli_string(path), "bytes",
                                  (json_int_t)made.bytes, "pictures", (json_int_t)made.pictures, "missing",
                                  (json_int_t)made.missing, "rows", made.rows, "cell", made.cell_px));
    if (line) snprintf(line, 4096, "%s", path);
    return 0;
}

int gen_show(struct cli *c, const char *dir, struct gen_figures *f, struct dl_err *e)
{
    struct manifest_doc d;
    struct dl_err page = {0};
    if (manifest_read(&d, dir, e) < 0) return -1;
    int rc = 0;
    if (figure_built())
        rc = figure_sweep(dir, &d, &(struct figure_sweep){0}, gen_figure_made, f, e);
    else
        cli_warn(c, "%s: no figure is drawn: this dlens was built without cairo and pango", dir);
    if (rc == 0 && gen_report(c, dir, &d, &(struct report_opts){0}, NULL, &page) < 0) {
        if (page.code == DL_EUSAGE)
            cli_warn(c, "no page: %s", page.msg);
        else
            rc = dl_fail(e, page.code, "%s", page.msg);
    }
    manifest_doc_close(&d);
    return rc;
}
