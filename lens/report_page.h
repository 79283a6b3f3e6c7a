/* report_page.h: a report between what is chosen (report.c) and what is written (report_page.c), inside of report.h.
 */
#ifndef LENS_REPORT_PAGE_H
#define LENS_REPORT_PAGE_H

#include "lens/web.h"
#include "lens/report.h"

/* A row of the page: the images of a prompt and seed. */
struct report_row {
    int prompt; /* number in the manifest */
    uint64_t seed;
    int64_t order; /* rows are sorted by it */
};

struct report {
    const char *dir;
    const struct manifest_doc *d;
    bool by_block; /* titles */
    const int *layer;
    int n_layers;
    struct report_row *row; /* [n_rows]; the rows of a prompt follow each other */
    int64_t n_rows;
    int cell_px; /* 0: full size */

    bool counting;         /* the page is only counted: no picture is read */
    int64_t counted_bytes; /* of a picture then; 0: of its file */
    int64_t pictures, missing;
};

/* The whole page. */
int report_page(struct report *r, struct web *to, struct dl_err *e);

/* The picture of a row and layer, or the frame of a missing one (report.c). */
int report_picture(struct report *r, struct web *to, const struct report_row *row, int k, struct dl_err *e);
/* "prompt, layer 5, seed 17": what stands for a picture where it is not seen. */
void report_alt(const struct report *r, struct web *to, const struct report_row *row, int k);

/* The files of lens/report, which the build turns into arrays. A zero byte behind each does not count. page.html has
 * {{words}} that report_page.c fills in. */
extern const unsigned char report_page_html[], report_page_css[], report_page_js[], report_csv_js[], report_scores_js[];
extern const int64_t report_page_html_bytes, report_page_css_bytes, report_page_js_bytes, report_csv_js_bytes,
    report_scores_js_bytes;

#endif
