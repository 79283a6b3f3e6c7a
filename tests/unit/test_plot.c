/* Charts: every curve, band, marker and label is there and inside of the plot, in all formats; texts are shown as they
 * are; the same chart is the same bytes; what cannot be drawn is refused. */
#include "lens/plot.h"
#include "lens/png.h"
#include "tests/unit/check.h"
#include "tests/unit/root.h"

#include <stdbool.h>

/* As tests/lsan.supp, for this program run by hand. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:libfontconfig\nleak:libcairo.so\n"; }

/* The whole SVG of a chart, to be freed. */
static char *svg_of(const struct plot_spec *s)
{
    must(plot_draw(s, in_root("a.svg"), e));
    char *svg = folder_read(in_root("a.svg"), NULL);
    assert_non_null(svg);
    return svg;
}

static int count(const char *text, const char *what)
{
    int n = 0;
    for (; (text = strstr(text, what)); text += strlen(what)) n++;
    return n;
}

/* How many elements of this name have this attribute. */
static int elements(const char *svg, const char *name, const char *with)
{
    int n = 0;
    char open[20];
    snprintf(open, sizeof open, "<%s ", name);
    for (const char *at = svg; (at = strstr(at, open)); at++) {
        const char *end = strchr(at, '>'), *found = strstr(at, with);
        n += found && found < end;
    }
    return n;
}

/* The first corner list of an element with this attribute: smallest and largest x and y, and the number of corners. */
static int extent(const char *svg, const char *name, const char *with, double box[4])
{
    char open[20];
    snprintf(open, sizeof open, "<%s ", name);
    for (const char *at = svg; (at = strstr(at, open)); at++) {
        const char *end = strchr(at, '>'), *found = strstr(at, with);
        if (!found || found > end) continue;
        int n = 0;
        box[0] = box[1] = 1e9, box[2] = box[3] = -1e9;
        for (const char *p = strstr(at, "points=\"") + 8; *p != '"'; n++) {
            char *next;
            double x = strtod(p, &next), y = strtod(next + 1, &next);
            box[0] = fmin(box[0], x), box[1] = fmin(box[1], y), box[2] = fmax(box[2], x), box[3] = fmax(box[3], y);
            p = *next == ' ' ? next + 1 : next;
        }
        return n;
    }
    fail_msg("no %s with %s", name, with);
    return 0;
}

#define BLUE "#0072b2"
#define VERMILLION "#d55e00"

static const struct plot_point df[] = {{0, 0, 5}, {4, 10, 20}, {8, 60, 10}, {24, 100, 0}};
static const struct plot_point sd[] = {{3, 5, NAN}, {7, NAN, NAN}, {11, 50, 60}, {23, 100, NAN}};
static const struct plot_curve two[] = {{"first", df, 4}, {"second", sd, 4}};

static void curves(void **state)
{
    (void)state;
    struct plot_spec s = {.title = "Title", .x_title = "Layer", .y_title = "% of images", .curve = two, .n_curves = 2};
    char *svg = svg_of(&s);
    static const char *const texts[] = {"Title", "first", "second", "Layer", "% of images", "20", "40",
                                        "60",    "80",    "100",    "3",     "7",           "11", "23"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        char text[40];
        snprintf(text, sizeof text, ">%s</text>", texts[i]);
        assert_int_equal(count(svg, text), 1);
    }
    assert_int_equal(count(svg, ">0</text>"), 2); /* of both axes */
    assert_non_null(strstr(svg, "width=\"960\" height=\"600\" viewBox=\"0 0 960 600\""));
    /* Blue: the line and the legend's sample; four round markers and the legend's; one band. */
    assert_int_equal(elements(svg, "polyline", BLUE), 2);
    assert_int_equal(elements(svg, "circle", BLUE), 5);
    assert_int_equal(elements(svg, "polygon", BLUE), 1);
    assert_int_equal(elements(svg, "polygon", "fill-opacity"), 1);
    /* The second has no mean at 7, so a line from 11 to 23 alone, three square markers and the legend's; the deviation
     * of a single layer is a line. */
    assert_int_equal(elements(svg, "polyline", VERMILLION), 3);
    assert_int_equal(elements(svg, "polygon", VERMILLION), 4);
    double line[4], band[4], axis[4];
    assert_int_equal(extent(svg, "polyline", "stroke=\"#8a8a8a\"", axis), 2);
    extent(svg, "polygon", "fill-opacity", band);
    assert_true(band[1] > 100 && fabs(band[3] - axis[3]) < 1);      /* cut off at 0 % */
    assert_true(strstr(svg, "<polyline") < strstr(svg, "<circle")); /* markers stand on their lines */
    extent(strstr(svg, "fill-opacity"), "polyline", BLUE, line);
    assert_true(line[0] > axis[0] && line[2] < axis[2] && fabs(line[3] - axis[3]) < 1);
    free(svg);
}

/* What lies outside of 0 and 100 % is cut off where it crosses: the upper edge from 90 at layer 0 to 110 at 10 leaves
 * the plot at layer 5, the lower from 10 to -10 too. */
static void clipped(void **state)
{
    (void)state;
    static const struct plot_point p[] = {{0, 50, 40}, {10, 50, 60}};
    static const struct plot_curve c = {"c", p, 2};
    char *svg = svg_of(&(struct plot_spec){.curve = &c, .n_curves = 1});
    double band[4], line[4];
    assert_int_equal(extent(svg, "polygon", "fill-opacity", band), 6);
    extent(strstr(svg, "fill-opacity"), "polyline", BLUE, line);
    assert_true(fabs(band[0] - line[0]) < 0.02 && fabs(band[2] - line[2]) < 0.02);
    char middle[40];
    snprintf(middle, sizeof middle, "%.2f", (line[0] + line[2]) / 2);
    if (strstr(middle, ".00")) *strchr(middle, '.') = 0;
    const char *corners = strstr(svg, "<polygon ");
    for (int i = 0; i < 2; i++) {
        corners = strstr(corners, middle);
        assert_non_null(corners);
        corners++;
    }
    /* The box is the plot's: 50 % in its middle. */
    assert_true(fabs((band[1] + band[3]) / 2 - line[1]) < 0.02);
    free(svg);
}

static void bars(void **state)
{
    (void)state;
    static const char *const series[] = {"one", "two", "tie"}, *const group[] = {"DF", "SD"};
    static const double value[] = {35.6, 51.7, 12.7, 55, 27.9, 17.1};
    struct plot_spec s = {.title = "Bars", .bars = {series, 3, group, 2, value}};
    char *svg = svg_of(&s);
    static const char *const texts[] = {"35.6", "51.7", "12.7", "55.0", "27.9", "17.1", "one",
                                        "two",  "tie",  "DF",   "SD",   "60",   "0"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        char text[40];
        snprintf(text, sizeof text, ">%s</text>", texts[i]);
        assert_int_equal(count(svg, text), 1);
    }
    assert_null(strstr(svg, ">80</text>"));
    /* Two bars and the legend's square each. */
    assert_int_equal(elements(svg, "polygon", BLUE), 3);
    assert_int_equal(elements(svg, "polygon", "#e69f00"), 3);
    assert_int_equal(elements(svg, "polygon", "#999999"), 3);
    const char *name = strstr(svg, ">DF</text>");
    while (*name != '<') name--;
    double first[4], axis[4];
    const char *after = strstr(svg, "#8a8a8a");
    extent(after, "polygon", BLUE, first);
    extent(svg, "polyline", "#8a8a8a", axis);
    assert_true(strtod(strstr(name, " y=\"") + 4, NULL) > axis[3] + 8); /* what a group is called, under it */
    double top[4];
    extent(svg, "polyline", "#e2e2e2", top); /* 20 % */
    assert_true(fabs((first[3] - first[1]) / (axis[1] - top[1]) - 35.6 / 20) < 0.02);
    free(svg);
}

/* The legend takes as many lines as it needs, numbers of layers never touch, and a curve without label is not in it. */
static void crowded(void **state)
{
    (void)state;
    static struct plot_point point[100];
    static struct plot_curve curve[PLOT_CURVES_MAX];
    char label[PLOT_CURVES_MAX][80];
    for (int i = 0; i < 100; i++) point[i] = (struct plot_point){i, i, NAN};
    for (int i = 0; i < PLOT_CURVES_MAX; i++) {
        snprintf(label[i], sizeof label[i], "curve number %d with more than a few words to be read", i);
        curve[i] = (struct plot_curve){label[i], point, 100};
    }
    char *svg = svg_of(&(struct plot_spec){.curve = curve, .n_curves = PLOT_CURVES_MAX, .h = 1200});
    assert_int_equal(count(svg, ">curve number"), PLOT_CURVES_MAX);
    assert_int_equal(count(svg, ">98</text>"), 0);
    assert_int_equal(count(svg, ">0</text>"), 2);
    /* No two samples in the same colour and form: the marker behind each line of the legend, its corners as seen from
     * the first. */
    char seen[PLOT_CURVES_MAX][400];
    const char *at = svg;
    for (int i = 0; i < PLOT_CURVES_MAX; i++) {
        at = strchr(strstr(at, "<polyline") + 1, '<');
        const char *points = strstr(at, "points=\""), *end = strchr(at, '>');
        size_t n = (size_t)snprintf(seen[i], sizeof *seen, "%.7s", strstr(at, "fill=\"#") + 6);
        double x0 = 0, y0 = 0;
        for (char *p = points && points < end ? (char *)points + 8 : NULL; p && *p != '"' && n < 380;) {
            double x = strtod(p, &p), y = strtod(p + 1, &p);
            if (n == 7) x0 = x, y0 = y;
            n += (size_t)snprintf(seen[i] + n, sizeof *seen - n, " %.0f,%.0f", x - x0, y - y0);
        }
        for (int j = 0; j < i; j++) assert_string_not_equal(seen[i], seen[j]);
    }
    free(svg);
    curve[0].label = NULL;
    svg = svg_of(&(struct plot_spec){.curve = curve, .n_curves = 1});
    assert_int_equal(count(svg, "curve number"), 0);
    assert_int_equal(elements(svg, "circle", BLUE), 100);
    free(svg);
}

static void text_as_it_was(void **state)
{
    (void)state;
    const struct plot_curve c[] = {{"<b>&amp;</b>", df, 4}, {"\xd9\x82\xd8\xb7\xd8\xa9", df, 4}, {"bad \xff", df, 4}};
    struct plot_spec s = {.title = "\xe7\x8c\xab & \"x\"\n", .curve = c, .n_curves = 3};
    char *svg = svg_of(&s);
    assert_non_null(strstr(svg, ">\xe7\x8c\xab &amp; &quot;x&quot;</text>"));
    assert_non_null(strstr(svg, "text-anchor=\"start\" fill=\"#1a1a1a\">&lt;b&gt;&amp;amp;&lt;/b&gt;</text>"));
    assert_non_null(
        strstr(svg, "text-anchor=\"end\" fill=\"#1a1a1a\" direction=\"rtl\">\xd9\x82\xd8\xb7\xd8\xa9</text>"));
    assert_non_null(strstr(svg, ">bad \xef\xbf\xbd</text>"));
    free(svg);
}

static void formats(void **state)
{
    (void)state;
    static const char *const name[] = {"a.png", "a.pdf", "a.SVG"};
    for (int i = 0; i < 3; i++) {
        struct plot_spec s = {.title = "caf\xc3\xa9", .curve = two, .n_curves = 2, .w = 500, .h = 300};
        int64_t n, m;
        must(plot_draw(&s, in_root(name[i]), e));
        char *a = folder_read(in_root(name[i]), &n);
        if (i == 1) sleep(1); /* PDF's date counts seconds */
        must(plot_draw(&s, in_root(name[i]), e));
        char *b = folder_read(in_root(name[i]), &m);
        assert_int_equal(n, m);
        assert_memory_equal(a, b, (size_t)n);
        assert_memory_equal(a, i == 0 ? "\x89PNG" : i == 1 ? "%PDF" : "<?xm", 4);
        free(a), free(b);
    }
    struct dl_png p;
    must(dl_png_read(&p, in_root("a.png"), e));
    assert_int_equal(p.w, 500);
    assert_int_equal(p.h, 300);
    assert_string_equal(dl_png_find(&p, "Title"), "caf\xc3\xa9");
    int blue = 0;
    for (int i = 0; i < 500 * 300; i++) blue += !memcmp(p.rgb + i * 3, "\x00\x72\xb2", 3);
    assert_in_range(blue, 100, 3000);
    dl_png_close(&p);
    /* A marker alone: a disc of radius 5.2. */
    static const struct plot_point point = {0, 50, NAN};
    static const struct plot_curve alone = {NULL, &point, 1};
    must(plot_draw(&(struct plot_spec){.curve = &alone, .n_curves = 1}, in_root("c.png"), e));
    must(dl_png_read(&p, in_root("c.png"), e));
    blue = 0;
    for (int i = 0; i < 960 * 600; i++) blue += !memcmp(p.rgb + i * 3, "\x00\x72\xb2", 3);
    assert_in_range(blue, 45, 85);
    dl_png_close(&p);
    /* Another size. */
    must(plot_draw(&(struct plot_spec){.curve = two, .n_curves = 2, .w = 1920, .h = 1200}, in_root("b.png"), e));
    must(dl_png_read(&p, in_root("b.png"), e));
    assert_int_equal(p.w, 1920);
    dl_png_close(&p);
}

static void refused(void **state)
{
    (void)state;
    static struct plot_curve many[PLOT_CURVES_MAX + 1];
    for (int i = 0; i <= PLOT_CURVES_MAX; i++) many[i] = two[0];
    const struct {
        const char *name;
        int w, h, n;
        enum dl_code code;
        const char *says;
    } table[] = {
        {"a.jpg", 0, 0, 2, DL_EUSAGE, "must end in .png, .pdf or .svg"},
        {"a.png", 239, 0, 2, DL_EUSAGE, "239 x 600 pixels; a side has 240 to 9600"},
        {"a.png", 0, 9601, 2, DL_EUSAGE, "960 x 9601 pixels"},
        {"a.png", 0, 0, PLOT_CURVES_MAX + 1, DL_EUSAGE, "43 curves cannot be told apart"},
        {"a.png", 240, 240, PLOT_CURVES_MAX, DL_EUSAGE, "a figure of 240 x 240 pixels has no room for the plot"},
        {"none/a.png", 0, 0, 2, DL_EFAIL, "cannot be written"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct dl_err e = {0};
        struct plot_spec s = {.curve = many, .n_curves = table[i].n, .w = table[i].w, .h = table[i].h};
        assert_int_equal(plot_draw(&s, in_root(table[i].name), &e), -1);
        if (!strstr(e.msg, table[i].says)) fail_msg("\"%s\" is not in \"%s\"", table[i].says, e.msg);
        assert_int_equal(e.code, table[i].code);
        assert_int_not_equal(access(in_root(table[i].name), F_OK), 0);
    }
    /* More groups of bars than there is room for. */
    const char *group[40];
    static const double value[40];
    for (int i = 0; i < 40; i++) group[i] = "group";
    for (int n = 10; n <= 40; n += 30) {
        struct dl_err e = {0};
        struct plot_spec s = {.bars = {group, 1, group, n, value}};
        assert_int_equal(plot_draw(&s, in_root("a.svg"), &e), n == 10 ? 0 : -1);
        if (n == 40) assert_non_null(strstr(e.msg, "has no room for the plot"));
    }
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, root_make, root_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_FOLDER(curves),         IN_FOLDER(clipped), IN_FOLDER(bars),    IN_FOLDER(crowded),
        IN_FOLDER(text_as_it_was), IN_FOLDER(formats), IN_FOLDER(refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
