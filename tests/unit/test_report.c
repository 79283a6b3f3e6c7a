/* Reports: whatever a manifest says stays text, every picture stands in the page once and as its file is, the policy
 * allows what is there and nothing else, and a page is as small as it was asked to be. */
#include "lens/names.h"
#include "lens/png.h"
#include "lens/report.h"
#include "lens/sha256.h"
#include "tests/unit/base64.h"
#include "tests/unit/check.h"
#include "tests/unit/root.h"

#include <ctype.h>
#include <time.h>

static const char *const nasty[] = {
    "</script><img src=x onerror=alert(1)>",
    "\" onload=\"alert(2)\" x='",
    "a &amp; b <!-- ]]> --> </style><style>",
    "\xd9\x82\xd8\xb7\xd8\xa9 \xe2\x80\xae \xe7\x8c\xab \xe2\x80\xa8\n\"two\", lines\r\n\x01",
    "a cat",
    "a cat",
    "",
};
enum { NASTY = sizeof nasty / sizeof *nasty, LAYERS = 3 };
static const int layers[LAYERS] = {0, 5, 12};
static const uint64_t seeds[2] = {17, UINT64_MAX};

static json_t *seed_json(uint64_t seed)
{
    char digits[24];
    snprintf(digits, sizeof digits, "%llu", (unsigned long long)seed);
    return json_string(digits);
}

static const char *image_path(int prompt, uint64_t seed, int k)
{
    char file[NAMES_MAX];
    names_image(file, "images", prompt, seed, k);
    return in_root(file);
}

/* A sweep's folder in root: n prompts, both seeds, three layers, pictures of w x h pixels of noise. */
static void make_folder(const char *const *prompt, int n, int w, int h)
{
    json_t *prompts = json_array(), *list = json_array(), *images = json_array();
    uint8_t *rgb = malloc((size_t)w * (size_t)h * 3);
    assert_non_null(rgb);
    folder_remove(in_root("images"));
    assert_int_equal(mkdir(in_root("images"), 0700), 0);
    for (int j = 0; j < LAYERS; j++) json_array_append_new(list, json_pack("{si}", "layer", layers[j]));
    for (int p = 0; p < n; p++) {
        json_array_append_new(prompts, json_pack("{ss ss}", "text", prompt[p], "negative", "<i>no</i>"));
        for (int i = 0; i < 2 * LAYERS; i++) {
            char file[NAMES_MAX];
            int k = layers[i % LAYERS];
            uint64_t seed = seeds[i / LAYERS];
            names_image(file, "images", p, seed, k);
            json_array_append_new(images, json_pack("{si so si ss ss}", "prompt", p, "seed", seed_json(seed), "layer",
                                                    k, "file", file, "state", "pending"));
            uint32_t noise = (uint32_t)(p * 8 + i);
            for (int x = 0; x < w * h * 3; x++) rgb[x] = (uint8_t)((noise = noise * 1664525 + 1013904223) >> 24);
            must(dl_png_write(in_root(file), rgb, w, h, NULL, 0, e));
        }
    }
    free(rgb);
    json_t *root_json = json_pack("{si ss ss s{ss ss ss ss} s{ss sf s{si}} s{sb ss} so so so}", "schema", 1, "dlens",
                                  "0\"><b>", "command", "sweep<b>", "model", "title", "Tiny </title><b>", "name",
                                  "/home/somebody/model", "class", "C<b>", "fingerprint", "f<b>", "settings",
                                  "</script><b>", "<script>x()</script>", "guidance", 7.5, "inner", "<b>", 1, "run",
                                  "save", 0, "titles", "layer", "prompts", prompts, "layers", list, "images", images);
    assert_non_null(root_json);
    assert_int_equal(json_dump_file(root_json, in_root("manifest.json"), 0), 0);
    json_decref(root_json);
}

/* Writes the page and returns it. */
static char *page_of(const struct report_opts *o, struct report_made *made, int64_t *bytes)
{
    struct manifest_doc d;
    struct report_made m;
    must(manifest_read(&d, root, e));
    must(report_write(root, &d, o, made ? made : &m, e));
    manifest_doc_close(&d);
    char *page = folder_read(o->out ? o->out : in_root("report.html"), bytes);
    assert_non_null(page);
    return page;
}

static char *page_all(void) { return page_of(&(struct report_opts){0}, NULL, NULL); }

static int count(const char *text, const char *what)
{
    int n = 0;
    for (; (text = strstr(text, what)); text += strlen(what)) n++;
    return n;
}

/* What stands between two marks, from *at on; a copy. *at goes behind it. */
static char *between(const char **at, const char *open, const char *close)
{
    const char *from = strstr(*at, open), *to = from ? strstr(from + strlen(open), close) : NULL;
    if (!to) fail_msg("no %s ... %s", open, close);
    from += strlen(open);
    *at = to;
    return strndup(from, (size_t)(to - from));
}

static json_t *data_of(const char *page)
{
    json_error_t why;
    char *text = between(&page, "<script type=\"application/json\" id=\"data\">", "</script>");
    for (const char *c = text; *c; c++) assert_true((unsigned char)*c < 0x80 && !strchr("<>&", *c));
    json_t *data = json_loads(text, 0, &why);
    if (!data) fail_msg("%s: %s", why.text, text);
    free(text);
    return data;
}

/* ---- what is in a page ---- */

static void text_stays_text(void **state)
{
    (void)state;
    make_folder(nasty, NASTY, 8, 8);
    char *page = page_all();
    assert_int_equal(count(page, "<script"), 4);
    assert_int_equal(count(page, "</script"), 4);
    assert_int_equal(count(page, "<style"), 1);
    assert_int_equal(count(page, "</style"), 1);
    assert_int_equal(count(page, "</title"), 1);
    assert_int_equal(count(page, "<img "), NASTY * 2 * LAYERS + 1); /* and the large view's */
    assert_int_equal(count(page, "<b>") + count(page, "<i>"), 0);
    assert_int_equal(count(page, "onload=\""), 0);
    assert_int_equal(count(page, "\x01"), 0);
    /* In the row's head, and in the alternative text of every picture. */
    assert_int_equal(count(page, "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;"), 2 + 2 * LAYERS);
    assert_int_equal(count(page, "&quot; onload=&quot;alert(2)&quot; x=&#39;"), 2 + 2 * LAYERS);
    assert_int_equal(count(page, "\xd9\x82\xd8\xb7\xd8\xa9 \xe2\x80\xae"), 2 + 2 * LAYERS);
    assert_non_null(strstr(page, "lines&#13;\n\xef\xbf\xbd</span>"));
    assert_non_null(strstr(page, "alt=\"a cat, layer 12, seed 18446744073709551615\""));
    /* The record holds every setting; the model's path stays at home. */
    assert_non_null(strstr(page, "<th scope=\"row\">guidance</th><td>7.5</td>"));
    assert_non_null(strstr(page, "<th scope=\"row\">inner: &lt;b&gt;</th><td>1</td>"));
    assert_non_null(
        strstr(page, "<th scope=\"row\">&lt;/script&gt;&lt;b&gt;</th><td>&lt;script&gt;x()&lt;/script&gt;</td>"));
    assert_non_null(strstr(page, "<th scope=\"row\">save</th><td>false</td>"));
    assert_non_null(strstr(page, "<th scope=\"row\">negative prompt</th><td>&lt;i&gt;no&lt;/i&gt;</td>"));
    assert_non_null(strstr(page, "<td>f&lt;b&gt;</td>"));
    assert_null(strstr(page, "somebody"));
    assert_non_null(strstr(page, " \xc2\xb7 7 prompts \xc2\xb7 2 seeds \xc2\xb7 3 layers"));
    free(page);
}

static void data_is_the_manifests(void **state)
{
    (void)state;
    make_folder(nasty, NASTY, 8, 8);
    char *page = page_all();
    json_t *data = data_of(page);
    const json_t *prompts = json_object_get(data, "prompts"), *rows = json_object_get(data, "rows");
    assert_int_equal(json_array_size(prompts), NASTY);
    for (int i = 0; i < NASTY; i++) assert_string_equal(json_string_value(json_array_get(prompts, i)), nasty[i]);
    assert_int_equal(json_array_size(rows), 2 * NASTY);
    for (int i = 0; i < 2 * NASTY; i++) {
        const json_t *row = json_array_get(rows, i);
        assert_int_equal(json_integer_value(json_array_get(row, 0)), i / 2);
        assert_string_equal(json_string_value(json_array_get(row, 1)), i % 2 ? "18446744073709551615" : "17");
    }
    for (int i = 0; i < LAYERS; i++) {
        const json_t *l = json_array_get(json_object_get(data, "layers"), i);
        assert_int_equal(json_integer_value(json_object_get(l, "k")), layers[i]);
    }
    const char *slash = strrchr(root, '/');
    assert_string_equal(json_string_value(json_object_get(data, "folder")), slash + 1);
    assert_int_equal(strlen(json_string_value(json_object_get(data, "id"))), 64);
    json_decref(data);
    free(page);
}

static void every_picture_once(void **state)
{
    (void)state;
    make_folder(nasty, 3, 40, 24);
    char *page = page_all();
    for (int i = 0; i < 3 * 2 * LAYERS; i++) {
        int64_t n;
        char *file = folder_read(image_path(i / 6, seeds[i / LAYERS % 2], layers[i % LAYERS]), &n);
        char *text = base64((uint8_t *)file, n);
        assert_int_equal(count(page, text), 1);
        free(text), free(file);
    }
    assert_int_equal(count(page, "\" width=\"40\" height=\"24\" class=\"dots\">"), 3 * 2 * LAYERS);
    free(page);
    make_folder(nasty, 1, 100, 200);
    page = page_all();
    assert_int_equal(count(page, "\" width=\"100\" height=\"200\" class=\"tall \">"), 2 * LAYERS);
    free(page);
}

static void missing_and_bad(void **state)
{
    (void)state;
    struct report_made made;
    struct manifest_doc d;
    struct dl_err e = {0};
    make_folder(nasty, 2, 8, 8);
    unlink(image_path(0, 17, 5));
    unlink(image_path(1, UINT64_MAX, 12));
    char *page = page_of(&(struct report_opts){0}, &made, NULL);
    assert_int_equal(count(page, "<span class=\"frame missing\""), 2);
    assert_non_null(strstr(page, " x=&#39;, layer 12, seed 18446744073709551615, missing\">missing</span>"));
    assert_int_equal(made.pictures, 10);
    assert_int_equal(made.missing, 2);
    assert_int_equal(made.rows, 4);
    free(page);
    /* A file that ends early is no picture; the page that was there stays. */
    int64_t n;
    char *file = folder_read(image_path(0, 17, 12), &n);
    assert_int_equal(folder_write(image_path(0, 17, 12), file, n - 20), 0);
    assert_int_equal(manifest_read(&d, root, &e), 0);
    int before = folder_count(root);
    char *was = folder_read(in_root("report.html"), NULL);
    assert_int_equal(report_write(root, &d, &(struct report_opts){0}, &made, &e), -1);
    assert_int_equal(e.code, DL_EINPUT);
    assert_non_null(strstr(e.msg, "p000_s17_k12.png"));
    assert_int_equal(folder_count(root), before);
    page = folder_read(in_root("report.html"), NULL);
    assert_string_equal(page, was);
    manifest_doc_close(&d);
    free(page), free(was), free(file);
}

static void policy(void **state)
{
    (void)state;
    make_folder(nasty, 2, 8, 8);
    char *page = page_all();
    const char *at = page;
    char *says = between(&at, "http-equiv=\"Content-Security-Policy\" content=\"", "\">");
    assert_non_null(strstr(says, "default-src 'none'"));
    assert_non_null(strstr(says, "img-src data:;"));
    assert_null(strstr(says, "unsafe"));
    for (int i = 0; i < 4; i++) {
        char hex[SHA256_HEX], want[80];
        uint8_t hash[32];
        char *own = between(&at, i ? "<script>" : "<style>", i ? "</script>" : "</style>");
        assert_non_null(strstr(own, i ? "\"use strict\";" : ":root {"));
        sha256_bytes(hex, own, (int64_t)strlen(own));
        for (int b = 0; b < 32; b++) {
            unsigned v;
            assert_int_equal(sscanf(hex + 2 * b, "%2x", &v), 1);
            hash[b] = (uint8_t)v;
        }
        char *text = base64(hash, 32);
        snprintf(want, sizeof want, " 'sha256-%s'", text);
        if (!strstr(says, want)) fail_msg("the policy does not allow part %d: %s", i, says);
        /* Nothing of ours puts markup in, or looks outside. */
        static const char *const never[] = {"innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(",
                                            "fetch(",    "@import",   "url(",           "http:",          "https:"};
        for (size_t w = 0; w < sizeof never / sizeof *never; w++)
            if (strstr(own, never[w])) fail_msg("part %d has %s", i, never[w]);
        free(text), free(own);
    }
    assert_int_equal(count(page, " src=\""), count(page, " src=\"data:image/png;base64,"));
    assert_int_equal(count(page, "href=\""), count(page, "href=\"data:,\""));
    assert_int_equal(count(page, " style=\""), 0); /* the policy would not let it */
    assert_int_equal(count(page, "{{"), 0);
    free(says), free(page);
}

static void same_bytes(void **state)
{
    (void)state;
    int64_t a, b;
    make_folder(nasty, NASTY, 16, 16);
    struct report_opts o = {.out = in_root("a.html"), .cell_px = 16}, p = {.out = in_root("b.html"), .cell_px = 16};
    char *x = page_of(&o, NULL, &a), *y = page_of(&p, NULL, &b);
    assert_int_equal(a, b);
    assert_memory_equal(x, y, (size_t)a);
    free(x), free(y);
}

/* ---- a part of a sweep ---- */

static void selections(void **state)
{
    (void)state;
    struct report_made made;
    make_folder(nasty, NASTY, 8, 8);
    static const int prompts[] = {4, 0}, some[] = {12, 0};
    struct report_opts o = {.prompt = prompts, .n_prompts = 2, .layer = some, .n_layers = 2};
    char *page = page_of(&o, &made, NULL);
    json_t *data = data_of(page);
    assert_int_equal(made.pictures, 2 * 2 * 2);
    assert_int_equal(json_array_size(json_object_get(data, "prompts")), 2);
    assert_string_equal(json_string_value(json_array_get(json_object_get(data, "prompts"), 0)), "a cat");
    assert_int_equal(json_integer_value(json_array_get(json_object_get(data, "numbers"), 0)), 4);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(data, "numbers"), 1)), 0);
    const char *first = strstr(page, "layer 12, seed 17"), *second = strstr(page, "layer 0, seed 17");
    assert_true(first && second && first < second);
    assert_null(strstr(page, "layer 5"));
    json_decref(data), free(page);

    /* The seeds' order is that of the list; the same scores are kept whatever part is shown. */
    static const uint64_t turned[] = {UINT64_MAX, 17};
    o = (struct report_opts){.seed = turned, .n_seeds = 2};
    page = page_of(&o, &made, NULL);
    data = data_of(page);
    json_t *row = json_array_get(json_object_get(data, "rows"), 2);
    assert_int_equal(json_integer_value(json_array_get(row, 0)), 1);
    assert_string_equal(json_string_value(json_array_get(row, 1)), "18446744073709551615");
    assert_int_equal(made.rows, 2 * NASTY);
    char *id = strdup(json_string_value(json_object_get(data, "id")));
    json_decref(data), free(page);
    o.n_seeds = 1;
    page = page_of(&o, &made, NULL);
    data = data_of(page);
    assert_int_equal(made.rows, NASTY);
    assert_string_equal(json_string_value(json_object_get(data, "id")), id);
    json_decref(data), free(page), free(id);

    struct manifest_doc d;
    struct dl_err e = {0};
    static const uint64_t none[] = {18, 19};
    o = (struct report_opts){.seed = none, .n_seeds = 2, .out = in_root("none.html")};
    assert_int_equal(manifest_read(&d, root, &e), 0);
    assert_int_equal(report_write(root, &d, &o, &made, &e), -1);
    assert_int_equal(e.code, DL_EUSAGE);
    assert_non_null(strstr(e.msg, "--seeds: no prompt that is shown has seed 18 or another of the list"));
    d.n_images = 0;
    e = (struct dl_err){0};
    assert_int_equal(report_write(root, &d, &(struct report_opts){.out = in_root("none.html")}, &made, &e), -1);
    assert_int_equal(e.code, DL_EINPUT);
    assert_int_not_equal(access(in_root("none.html"), F_OK), 0);
    manifest_doc_close(&d);
}

/* Scores are kept under a sweep's id: it is another one with other settings, and the same however it was computed. */
static void ids(void **state)
{
    (void)state;
    char *id[3];
    make_folder(nasty, 1, 8, 8);
    struct report_opts o = {.out = in_root("id.html")};
    for (int i = 0; i < 3; i++) {
        struct manifest_doc d;
        struct report_made made;
        must(manifest_read(&d, root, e));
        if (i) json_object_set_new((json_t *)(i == 1 ? d.run : d.settings), "steps", json_integer(7));
        must(report_write(root, &d, &o, &made, e));
        manifest_doc_close(&d);
        char *page = folder_read(in_root("id.html"), NULL);
        json_t *data = data_of(page);
        id[i] = strdup(json_string_value(json_object_get(data, "id")));
        json_decref(data), free(page);
    }
    assert_string_equal(id[0], id[1]);
    assert_string_not_equal(id[0], id[2]);
    for (int i = 0; i < 3; i++) free(id[i]);
}

static void titles(void **state)
{
    (void)state;
    make_folder(nasty, 1, 8, 8);
    struct report_opts o = {.titles = FIGURE_TITLES_BLOCK};
    char *page = page_of(&o, NULL, NULL);
    json_t *data = data_of(page), *l = json_object_get(data, "layers");
    assert_non_null(strstr(page, "<th scope=\"col\">Embeddings</th><th scope=\"col\">Layer 4</th>"));
    assert_string_equal(json_string_value(json_object_get(json_array_get(l, 0), "tick")), "Embeddings");
    assert_string_equal(json_string_value(json_object_get(json_array_get(l, 1), "tick")), "4");
    assert_int_equal(json_integer_value(json_object_get(json_array_get(l, 1), "k")), 5); /* files count k */
    assert_non_null(strstr(page, ", embeddings, seed 17\""));
    json_decref(data), free(page);
    page = page_all();
    assert_non_null(strstr(page, "<th scope=\"col\">Layer 0</th><th scope=\"col\">Layer 5</th>"));
    free(page);
}

/* ---- how large ---- */

/* The value of a base64 digit. */
static int digit_of(char c)
{
    return isupper((unsigned char)c)   ? c - 'A'
           : islower((unsigned char)c) ? c - 'a' + 26
           : isdigit((unsigned char)c) ? c - '0' + 52
           : c == '+'                  ? 62
                                       : 63;
}

static void reduced(void **state)
{
    (void)state;
    struct report_made made;
    make_folder(nasty, 1, 60, 30);
    struct report_opts o = {.cell_px = 20};
    char *page = page_of(&o, &made, NULL);
    assert_int_equal(made.cell_px, 20);
    assert_int_equal(count(page, "\" width=\"20\" height=\"10\" class=\"\">"), 2 * LAYERS);
    const char *at = page;
    char *text = between(&at, "base64,", "\"");
    uint8_t *data = calloc(strlen(text), 1);
    int64_t n = 0;
    for (size_t i = 0; text[i] && text[i] != '='; i++) {
        for (int b = 5; b >= 0; b--, n++) data[n / 8] |= (uint8_t)((digit_of(text[i]) >> b & 1) << (7 - n % 8));
    }
    struct dl_png thumb, was;
    must(dl_png_decode(&thumb, data, n / 8, "thumb", e));
    must(dl_png_read(&was, image_path(0, 17, 0), e));
    for (int i = 0; i < 20 * 10 * 3; i++) {
        int sum = 0, x = i / 3 % 20, y = i / 60;
        for (int v = 0; v < 9; v++) sum += was.rgb[((y * 3 + v / 3) * 60 + x * 3 + v % 3) * 3 + i % 3];
        assert_int_equal(thumb.rgb[i], (sum * 2 + 9) / 18);
    }
    dl_png_close(&thumb), dl_png_close(&was);
    free(data), free(text), free(page);
    /* Pictures that are small enough stay as they are. */
    o.cell_px = 60;
    page = page_of(&o, &made, NULL);
    assert_int_equal(count(page, "\" width=\"60\" height=\"30\" class=\"dots\">"), 2 * LAYERS);
    free(page);
}

static void fits(void **state)
{
    (void)state;
    struct report_made made;
    struct manifest_doc d;
    struct dl_err e = {0};
    int64_t full, n;
    make_folder(nasty, 1, 300, 300);
    char *page = page_of(&(struct report_opts){0}, &made, &full);
    assert_int_equal(made.cell_px, 0);
    assert_int_equal(made.bytes, full);
    free(page);
    /* What the page would have been is told, but for a few digits. */
    struct report_opts o = {.max_bytes = full - 1};
    page = page_of(&o, &made, &n);
    assert_in_range(made.full_bytes, full - 200, full);
    assert_true(made.cell_px == 256 || made.cell_px == 192);
    assert_in_range(n, 1, full - 1);
    assert_int_equal(made.bytes, n);
    free(page);
    /* No page is larger than it may be, and the largest cell is taken that fits. */
    int last = 512;
    for (int64_t max = full; max > full / 8; max -= full / 11) {
        o.max_bytes = max;
        e = (struct dl_err){0};
        assert_int_equal(manifest_read(&d, root, &e), 0);
        int rc = report_write(root, &d, &o, &made, &e);
        manifest_doc_close(&d);
        if (rc) break;
        assert_true(made.bytes <= max);
        assert_true(made.cell_px ? made.cell_px <= last : last == 512);
        last = made.cell_px ? made.cell_px : last;
    }
    assert_true(last < 192);
    /* What cannot be made small enough is refused with the size and the ways out, and leaves nothing. */
    int before = folder_count(root);
    static const int asked[] = {0, 256};
    for (int i = 0; i < 2; i++) {
        o = (struct report_opts){.max_bytes = 1 << 16, .cell_px = asked[i], .out = in_root("never.html")};
        e = (struct dl_err){0};
        assert_int_equal(manifest_read(&d, root, &e), 0);
        assert_int_equal(report_write(root, &d, &o, &made, &e), -1);
        manifest_doc_close(&d);
        assert_int_equal(e.code, DL_EUSAGE);
        double mib = 0;
        const char *about = strstr(e.msg, "never.html: the page would take about ");
        assert_true(about && sscanf(about, "never.html: the page would take about %lf MiB", &mib) == 1);
        if (i ? mib < 1.3 || mib > 1.8 : mib < 0.1 || mib > 0.25) fail_msg("%s", e.msg);
        assert_non_null(
            strstr(e.msg, i ? "MiB with pictures of 256 pixels, more than 0.1 MiB" : "pictures of 64 pixels"));
        assert_non_null(strstr(e.msg, "--prompts"));
        assert_non_null(strstr(e.msg, "--layers"));
        assert_non_null(strstr(e.msg, "--max-size"));
        assert_true(!strstr(e.msg, "--cell") == !i);
        assert_int_equal(folder_count(root), before);
    }
}

/* An estimate that was too low does not make a page too large: the next smaller pictures have their turn. */
/* A folder that claims to have more pictures than any page could show: no time is lost with looking for them. */
static void far_too_many(void **state)
{
    (void)state;
    enum { MANY = 100000 };
    struct manifest_doc d;
    struct report_made made;
    make_folder(nasty, 1, 8, 8);
    must(manifest_read(&d, root, e));
    int *layer = calloc(MANY, sizeof *layer);
    struct manifest_image *image = calloc(MANY, sizeof *image);
    assert_true(layer && image);
    for (int i = 0; i < MANY; i++) layer[i] = i, image[i].seed = (uint64_t)i;
    struct manifest_doc many = d;
    many.layer = layer, many.n_layers = MANY, many.image = image, many.n_images = MANY;
    struct dl_err err = {0};
    time_t before = time(NULL);
    assert_int_equal(report_write(root, &many, &(struct report_opts){.out = in_root("many.html")}, &made, &err), -1);
    assert_int_equal(err.code, DL_EUSAGE);
    assert_non_null(strstr(err.msg, "about 610351.6 MiB")); /* 10^10 cells of 64 bytes */
    assert_true(time(NULL) - before < 60);
    free(layer), free(image);
    manifest_doc_close(&d);
}

static void fits_after_all(void **state)
{
    (void)state;
    struct report_made made;
    make_folder(nasty, 3, 300, 300);
    uint8_t *flat = calloc(300 * 300, 3);
    assert_non_null(flat);
    /* Pictures of noise stand where none of the twelve is that the estimate looks at. */
    for (int i = 0; i < 18; i++)
        if (i % 3 != 2 && i != 16)
            must(dl_png_write(image_path(i / 6, seeds[i / 3 % 2], layers[i % 3]), flat, 300, 300, NULL, 0, e));
    must(dl_png_write(image_path(2, UINT64_MAX, 12), flat, 300, 300, NULL, 0, e));
    free(flat);
    unlink(image_path(0, 17, 0));
    struct report_opts o = {.max_bytes = 1200000};
    free(page_of(&o, &made, NULL));
    assert_int_equal(made.cell_px, 192);
    assert_in_range(made.bytes, 700000, 1200000);
    assert_int_equal(made.pictures, 17);
    assert_int_equal(made.missing, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_stays_text),
        cmocka_unit_test(data_is_the_manifests),
        cmocka_unit_test(every_picture_once),
        cmocka_unit_test(missing_and_bad),
        cmocka_unit_test(policy),
        cmocka_unit_test(same_bytes),
        cmocka_unit_test(selections),
        cmocka_unit_test(ids),
        cmocka_unit_test(titles),
        cmocka_unit_test(reduced),
        cmocka_unit_test(fits),
        cmocka_unit_test(far_too_many),
        cmocka_unit_test(fits_after_all),
    };
    return cmocka_run_group_tests(tests, root_make, root_remove);
}
