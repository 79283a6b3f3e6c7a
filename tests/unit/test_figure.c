#define _GNU_SOURCE /* memmem */
/* Figures: pictures come out to the pixel, missing ones are framed, text is shown as it was in any script, the same
 * figure is the same bytes, and a sweep's folder gives one figure for each prompt and seed. */
#include "lens/figure.h"
#include "lens/png.h"
#include "tests/unit/root.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

/* As tests/lsan.supp, for this program run by hand. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:libfontconfig\nleak:libcairo.so\n"; }

static const uint8_t red[3] = {230, 20, 30}, green[3] = {10, 200, 60};

/* [h][w][3], the upper left pixel green and all others red */
static uint8_t *picture(int w, int h)
{
    uint8_t *rgb = malloc((size_t)w * (size_t)h * 3);
    assert_non_null(rgb);
    for (int i = 0; i < w * h; i++) memcpy(rgb + i * 3, i ? red : green, 3);
    return rgb;
}

static int count(const struct dl_png *p, const uint8_t colour[3])
{
    int n = 0;
    for (int64_t i = 0; i < (int64_t)p->w * p->h; i++) n += !memcmp(p->rgb + i * 3, colour, 3);
    return n;
}

/* Draws to name in the folder and returns its path (static) after checking that it worked. */
static const char *draw(const struct figure_spec *s, const char *name)
{
    static char path[FOLDER_PATH + 64];
    struct dl_err e = {0};
    snprintf(path, sizeof path, "%s/%.50s", root, name);
    if (figure_draw(s, path, &e)) print_message("%s\n", e.msg);
    assert_int_equal(e.code, DL_OK);
    return path;
}

static void columns(void **state)
{
    (void)state;
    static const int want[][2] = {{1, 1}, {2, 2}, {4, 2}, {5, 3}, {9, 3}, {10, 4}, {12, 4}, {13, 4}, {17, 5}, {24, 5}};
    for (int i = 0; i < 10; i++) assert_int_equal(figure_columns(want[i][0]), want[i][1]);
}

static void whole_factors(void **state)
{
    (void)state;
    /* side of the picture, cell, side of what one pixel becomes */
    static const int table[][3] = {{64, 256, 4}, {100, 256, 2}, {256, 256, 1}, {200, 256, 1}, {32, 100, 3}};
    for (int i = 0; i < 5; i++) {
        struct dl_png p;
        struct dl_err e = {0};
        int side = table[i][0], f = table[i][2];
        uint8_t *rgb = picture(side, side);
        struct figure_cell cell[5];
        for (int c = 0; c < 5; c++) cell[c] = (struct figure_cell){.title = "Layer", .rgb = rgb, .w = side, .h = side};
        struct figure_spec s = {.title = "Title", .cell_px = table[i][1], .cell = cell, .n_cells = 5};
        assert_int_equal(dl_png_read(&p, draw(&s, "a.png"), &e), 0);
        assert_int_equal(count(&p, green), 5 * f * f);
        assert_int_equal(count(&p, red), 5 * (side * side - 1) * f * f);
        dl_png_close(&p);
        free(rgb);
    }
}

static void reduced(void **state)
{
    (void)state;
    struct dl_png p;
    struct dl_err e = {0};
    uint8_t *rgb = picture(512, 256);
    struct figure_cell cell = {.rgb = rgb, .w = 512, .h = 256};
    struct figure_spec s = {.cell_px = 128, .cell = &cell, .n_cells = 1};
    assert_int_equal(dl_png_read(&p, draw(&s, "a.png"), &e), 0);
    /* All but the corner's surroundings is the one colour, out to the border. */
    assert_in_range(count(&p, red), 128 * 64 - 9, 128 * 64 - 1);
    dl_png_close(&p);
    /* PDF and SVG carry the picture as it was. */
    int64_t n;
    char *pdf = folder_read(draw(&s, "a.pdf"), &n);
    assert_non_null(memmem(pdf, (size_t)n, "/Width 512", 10));
    assert_non_null(memmem(pdf, (size_t)n, "/Height 256", 11));
    free(pdf);
    char *svg = folder_read(draw(&s, "a.svg"), NULL);
    assert_non_null(strstr(svg, "width=\"128\" height=\"64\""));
    assert_non_null(strstr(svg, "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAgAAAAEA")); /* 512 x 256 */
    free(svg);
    free(rgb);
}

static void missing(void **state)
{
    (void)state;
    struct dl_png p;
    struct dl_err e = {0};
    uint8_t *rgb = picture(64, 64);
    static const uint8_t frame[3] = {0xb0, 0xb0, 0xb0};
    struct figure_cell cell[3] = {
        {.title = "1", .rgb = rgb, .w = 64, .h = 64}, {.title = "2", .path = "/nonexistent/2.png"}, {.title = "3"}};
    struct figure_spec s = {.title = "Unfinished", .cell = cell, .n_cells = 3};
    assert_int_equal(dl_png_read(&p, draw(&s, "a.png"), &e), 0);
    assert_in_range(count(&p, frame), 2 * 4 * 255, 2 * 4 * 255 + 200); /* text has a few such pixels too */
    dl_png_close(&p);
    char *svg = folder_read(draw(&s, "a.svg"), NULL);
    char *first = strstr(svg, ">missing</text>");
    assert_non_null(first);
    assert_non_null(strstr(first + 1, ">missing</text>"));
    free(svg);
    /* All of them. */
    cell[0].rgb = NULL;
    draw(&s, "a.pdf");
    free(rgb);
}

static void text_as_it_was(void **state)
{
    (void)state;
    static const char *const title[][2] = {
        {"<b>a & \"b\"</b> &amp;", ">&lt;b&gt;a &amp; &quot;b&quot;&lt;/b&gt; &amp;amp;</text>"},
        {"a\nb\tc\x01", ">a b c</text>"},
        {"bad \xff\xfe bytes", ">bad \xef\xbf\xbd\xef\xbf\xbd bytes</text>"},
        {"\xef\xbf\xbf", ">\xef\xbf\xbd</text>"},
        {"\xe7\x8c\xab \xf0\x9f\x98\x80", ">\xe7\x8c\xab \xf0\x9f\x98\x80</text>"},
        {"\xd9\x82\xd8\xb7\xd8\xa9", "direction=\"rtl\">\xd9\x82\xd8\xb7\xd8\xa9</text>"},
    };
    for (size_t i = 0; i < sizeof title / sizeof *title; i++) {
        struct figure_cell cell = {.title = "<i>1</i>"};
        struct figure_spec s = {.title = title[i][0], .cell = &cell, .n_cells = 1};
        char *svg = folder_read(draw(&s, "a.svg"), NULL);
        if (!strstr(svg, title[i][1])) print_message("%s\n", svg);
        assert_non_null(strstr(svg, title[i][1]));
        assert_non_null(strstr(svg, ">&lt;i&gt;1&lt;/i&gt;</text>"));
        free(svg);
        draw(&s, "a.pdf");
        draw(&s, "a.png");
    }
}

/* Words of a prompt come back, in order, from the lines they were set in; past ten lines there is an ellipsis. */
static void long_text(void **state)
{
    (void)state;
    char *title = malloc(100001);
    assert_non_null(title);
    for (int words = 40; words <= 20000; words += 19960) {
        title[0] = 0;
        for (int i = 0, n = 0; i < words && n < 99900; i++) n += sprintf(title + n, "%sw%d", i ? " " : "", i);
        struct figure_cell cell = {.title = title};
        struct figure_spec s = {.title = title, .cell = &cell, .n_cells = 1};
        char *svg = folder_read(draw(&s, "a.svg"), NULL), *at = strstr(svg, "<g ");
        int lines = 0, next = 0;
        /* The cell's title and its "missing" are of another size. */
        for (; (at = strstr(at, "font-size=\"21\"")); lines++) {
            for (at = strchr(at, '>') + 1; *at == 'w'; at += *at == ' ') {
                long number = strtol(at + 1, &at, 10);
                if (*at == '\xe2') break; /* the ellipsis may stand inside a word */
                assert_int_equal(number, next);
                next++;
            }
        }
        assert_non_null(strstr(svg, "\xe2\x80\xa6</text>")); /* the cell's own title is cut either way */
        if (words == 40) assert_int_equal(next, 40);
        if (words > 40) assert_int_equal(lines, 10);
        assert_in_range(lines, 2, 10);
        free(svg);
        draw(&s, "a.png");
    }
    /* One word of 20 KB, and no hyphen that was not there. */
    memset(title, 'a', 20000);
    title[20000] = 0;
    struct figure_cell cell = {.title = "1"};
    struct figure_spec s = {.title = title, .cell = &cell, .n_cells = 1};
    char *svg = folder_read(draw(&s, "a.svg"), NULL);
    assert_null(strstr(svg, "a-</text>"));
    assert_null(strstr(svg, "\xe2\x80\x90"));
    free(svg);
    free(title);
}

static void same_bytes(void **state)
{
    (void)state;
    static const char *const name[] = {"a.png", "a.pdf", "a.SVG"};
    uint8_t *rgb = picture(64, 64);
    struct figure_cell cell[2] = {{.title = "Layer 1", .rgb = rgb, .w = 64, .h = 64}, {.title = "Layer 2"}};
    struct figure_spec s = {.title = "caf\xc3\xa9 \xe7\x8c\xab", .cell = cell, .n_cells = 2};
    for (int i = 0; i < 3; i++) {
        int64_t n, m;
        char *a = folder_read(draw(&s, name[i]), &n);
        sleep(i == 1 ? 1 : 0); /* PDF's date counts seconds */
        char *b = folder_read(draw(&s, name[i]), &m);
        assert_int_equal(n, m);
        assert_memory_equal(a, b, (size_t)n);
        assert_memory_equal(a, i == 0 ? "\x89PNG" : i == 1 ? "%PDF" : "<?xm", 4);
        free(a);
        free(b);
    }
    free(rgb);
}

static void refused(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int columns, cell_px, n_cells;
        enum dl_code code;
        const char *says;
    } table[] = {
        {"a.jpg", 0, 0, 1, DL_EUSAGE, "a.jpg: a figure's name must end in .png, .pdf or .svg"},
        {"png", 0, 0, 1, DL_EUSAGE, "must end in"},
        {"x.png/a", 0, 0, 1, DL_EUSAGE, "must end in"},
        {"a.png", 0, 31, 1, DL_EUSAGE, "cells of 31 pixels; 32 to 4096"},
        {"a.png", 0, 4097, 1, DL_EUSAGE, "4097"},
        {"a.png", -1, 0, 1, DL_EUSAGE, "-1 columns"},
        {"a.png", 0, 0, 0, DL_EUSAGE, "no images"},
        {"a.png", 9, 4096, 9, DL_EUSAGE, "too large for PNG; give smaller cells (--cell)"},
        {"a.pdf", 9, 4096, 9, DL_EUSAGE, "too large for PDF"},
        {"none/a.png", 0, 0, 1, DL_EFAIL, "none/a.png: cannot be written: No such file"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        char path[FOLDER_PATH + 32];
        struct dl_err e = {0};
        struct figure_cell cell[9] = {0};
        struct figure_spec s = {
            .columns = table[i].columns, .cell_px = table[i].cell_px, .cell = cell, .n_cells = table[i].n_cells};
        snprintf(path, sizeof path, "%s/%s", root, table[i].name);
        assert_int_equal(figure_draw(&s, path, &e), -1);
        if (!strstr(e.msg, table[i].says)) print_message("%s\n", e.msg);
        assert_int_equal(e.code, table[i].code);
        assert_non_null(strstr(e.msg, table[i].says));
        assert_int_not_equal(access(path, F_OK), 0);
    }
    /* A picture's file that is no PNG. */
    char bad[FOLDER_PATH + 32], path[FOLDER_PATH + 32];
    struct dl_err e = {0};
    snprintf(bad, sizeof bad, "%s/bad.png", root);
    snprintf(path, sizeof path, "%s/b.png", root);
    assert_int_equal(folder_write(bad, "not a picture", 13), 0);
    struct figure_cell cell = {.path = bad};
    struct figure_spec s = {.cell = &cell, .n_cells = 1};
    assert_int_equal(figure_draw(&s, path, &e), -1);
    assert_int_equal(e.code, DL_EINPUT);
    assert_non_null(strstr(e.msg, "bad.png"));
}

struct made {
    char path[8][FOLDER_PATH];
    int n;
};

static void note(void *ctx, const char *path)
{
    struct made *m = ctx;
    assert_true(m->n < 8);
    snprintf(m->path[m->n++], FOLDER_PATH, "%s", path + strlen(root) + 1);
}

static void of_a_sweep(void **state)
{
    (void)state;
    struct manifest_prompt prompt[2] = {{"a cat", NULL}, {"a dog", NULL}};
    int layer[3] = {12, 0, 5};
    struct manifest_image image[12];
    struct dl_err e = {0};
    char images[FOLDER_PATH + 16], out[FOLDER_PATH + 32];
    snprintf(images, sizeof images, "%s/images", root);
    assert_int_equal(mkdir(images, 0777), 0);
    /* In another order than the figure's: layers ascend here, prompts and seeds alternate. */
    for (int i = 0; i < 12; i++)
        image[i] = (struct manifest_image){.prompt = i % 2, .seed = i / 2 % 2 ? 18 : 17, .k = (int[]){0, 5, 12}[i / 4]};
    json_t *run = json_pack("{ss}", "titles", "layer");
    struct manifest_doc d = {.model = {"Tiny", "tiny", "StableDiffusionPipeline", ""},
                             .run = run,
                             .prompt = prompt,
                             .n_prompts = 2,
                             .layer = layer,
                             .n_layers = 3,
                             .image = image,
                             .n_images = 12};
    uint8_t *rgb = picture(64, 64);
    for (int i = 0; i < 12; i++) {
        char path[FOLDER_PATH + NAMES_MAX + 8];
        names_image(image[i].file, "images", image[i].prompt, image[i].seed, image[i].k);
        snprintf(path, sizeof path, "%s/%.90s", root, image[i].file);
        assert_int_equal(dl_png_write(path, rgb, 64, 64, NULL, 0, &e), 0);
    }
    free(rgb);
    struct made m = {0};
    assert_int_equal(figure_sweep(root, &d, &(struct figure_sweep){0}, note, &m, &e), 0);
    assert_int_equal(m.n, 4);
    assert_string_equal(m.path[0], "grid_p000_s17.png");
    assert_string_equal(m.path[1], "grid_p001_s17.png");
    assert_string_equal(m.path[3], "grid_p001_s18.png");
    struct dl_png p;
    snprintf(out, sizeof out, "%s/grid_p001_s18.png", root);
    assert_int_equal(dl_png_read(&p, out, &e), 0);
    assert_string_equal(dl_png_find(&p, "Title"), "Tiny Diffusion Lens - a dog");
    assert_int_equal(count(&p, green), 3 * 16);
    int small = p.w;
    dl_png_close(&p);
    prompt[1].text = ""; /* nothing to put behind a dash */
    m.n = 0;
    assert_int_equal(figure_sweep(root, &d, &(struct figure_sweep){0}, note, &m, &e), 0);
    assert_int_equal(dl_png_read(&p, out, &e), 0);
    assert_string_equal(dl_png_find(&p, "Title"), "Tiny Diffusion Lens");
    dl_png_close(&p);
    prompt[1].text = "a dog";
    snprintf(out, sizeof out, "%s/f.svg", root);
    m.n = 0;
    assert_int_equal(figure_sweep(root, &d, &(struct figure_sweep){.out = out}, note, &m, &e), 0);
    assert_string_equal(m.path[2], "f_p000_s18.svg");
    /* One figure: the name as it is; the cells in the order of the layers; both ways to title them. */
    d.n_images = 1;
    m.n = 0;
    assert_int_equal(figure_sweep(root, &d, &(struct figure_sweep){0}, note, &m, &e), 0);
    assert_string_equal(m.path[0], "grid.png");
    static const char *const want[3][3] = {{">Layer 12<", ">Layer 0<", ">Layer 5<"},
                                           {">Layer 11<", ">Embeddings<", ">Layer 4<"},
                                           {">Layer 12<", ">Layer 0<", ">Layer 5<"}};
    for (int i = 0; i < 3; i++) {
        if (i == 2) json_object_set_new(run, "titles", json_string("block"));
        struct figure_sweep o = {
            .out = out,
            .titles = (enum figure_titles[]){FIGURE_TITLES_SWEEP, FIGURE_TITLES_BLOCK, FIGURE_TITLES_LAYER}[i]};
        assert_int_equal(figure_sweep(root, &d, &o, NULL, NULL, &e), 0);
        char *svg = folder_read(out, NULL), *at = svg;
        for (int c = 0; c < 3; c++) {
            at = strstr(at, want[i][c]);
            assert_non_null(at);
        }
        free(svg);
    }
    /* What the manifest says counts where nothing else is asked for. */
    assert_int_equal(figure_sweep(root, &d, &(struct figure_sweep){.out = out}, NULL, NULL, &e), 0);
    char *svg = folder_read(out, NULL);
    assert_non_null(strstr(svg, ">Layer 11<"));
    free(svg);
    d.model.class_name = "StableDiffusionXLPipeline";
    assert_int_equal(figure_sweep(root, &d, &(struct figure_sweep){0}, NULL, NULL, &e), 0);
    snprintf(out, sizeof out, "%s/grid.png", root);
    assert_int_equal(dl_png_read(&p, out, &e), 0);
    assert_true(p.w > small * 3 / 2);
    dl_png_close(&p);
    d.n_images = 0;
    assert_int_equal(figure_sweep(root, &d, &(struct figure_sweep){0}, NULL, NULL, &e), -1);
    assert_int_equal(e.code, DL_EINPUT);
    json_decref(run);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, root_make, root_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(columns), IN_FOLDER(whole_factors),  IN_FOLDER(reduced),
        IN_FOLDER(missing),        IN_FOLDER(text_as_it_was), IN_FOLDER(long_text),
        IN_FOLDER(same_bytes),     IN_FOLDER(refused),        IN_FOLDER(of_a_sweep),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
