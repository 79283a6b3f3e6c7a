/* Choices by measurement: made once for a shape, kept in the file and across processes, taken from outside, never made
 * where nothing may be measured; every way gives the result within its budget, which is the other tests' matter. */
#include "tests/unit/folder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include "tests/cuda/rig_cuda.h"

enum { ROWS = 2, PIXELS = 40, IN = 64, OUT = 96, HEADS = 1 };

static char home[FOLDER_PATH];

/* A product with GLU, which no library has whole, and an attention, on a backend of its own. */
struct world {
    const struct dl_backend *be;
    struct dl_ctx *ctx;
    struct dl_run r;
    struct dl_wset set;
    struct dl_w w;
    dl_act x, y, q, o;
    char gemm[64], attn[64]; /* what ran */
};

static void must(int rc, const struct dl_err *e)
{
    if (rc < 0) fail_msg("%s", e->msg);
}

static void program(void *user)
{
    struct world *w = user;
    dl_op_gemm(&w->r, (struct dl_gemm){.x = w->x, .y = w->y, .w = &w->w, .e = {.fn = DL_GELU, .glu = true}});
    if (w->r.variant) snprintf(w->gemm, sizeof w->gemm, "%s", w->r.variant);
    dl_op_attn(&w->r, (struct dl_attn){.q = w->q, .k = w->q, .v = w->q, .y = w->o, .heads = HEADS, .scale = 0.1f});
    if (w->r.variant) snprintf(w->attn, sizeof w->attn, "%s", w->r.variant);
}

static void begin(struct world *w, const struct dl_cuda_opts *o)
{
    struct dl_err e = {0};
    *w = (struct world){0};
    must(cuda_open(&w->be, &w->ctx, o, &e), &e);
    w->w = (struct dl_w){.dim = {2 * OUT, IN}, .nd = 2, .n_parts = 1};
    w->w.part[0] = (struct dl_wpart){.rows = 2 * OUT, .t = DL_F16, .made_up = true, .made = {.seed = 5, .amp = 0.2f}};
    must(dl_wset_add(&w->set, &w->w, "w", &e), &e);
    w->x = dl_act_at(rig_cuda_mem(ROWS * PIXELS * IN * 2), DL_F16, ROWS, 1, PIXELS, IN);
    w->q = dl_act_at(w->x.p, DL_F16, ROWS, 1, PIXELS, IN);
    w->y = dl_act_at(rig_cuda_mem(ROWS * PIXELS * OUT * 2), DL_F16, ROWS, 1, PIXELS, OUT);
    w->o = dl_act_at(rig_cuda_mem(ROWS * PIXELS * IN * 2), DL_F16, ROWS, 1, PIXELS, IN);
    uint16_t *x = w->x.p;
    for (int i = 0; i < ROWS * PIXELS * IN; i++) x[i] = dl_f16_of((float)(i % 13 - 6) * 0.1f);
}

/* The program dry, loaded and eager. */
static void once(struct world *w)
{
    struct dl_err e = {0};
    void *work;
    dl_run_open(&w->r, w->be, w->ctx, DL_F16);
    program(w);
    must(dl_run_check(&w->r, &e), &e);
    int64_t bytes = w->r.arena.peak_bytes;
    must(dl_run_load(&w->r, &w->set, &e), &e);
    must(w->be->alloc(w->ctx, bytes, &work, &e), &e);
    dl_run_bind(&w->r, work, bytes);
    program(w);
    must(dl_run_check(&w->r, &e), &e);
    must(w->be->sync(w->ctx, &e), &e);
    w->be->free(w->ctx, work);
    dl_run_close(&w->r);
}

static void end(struct world *w)
{
    dl_wset_close(&w->set);
    w->be->close(w->ctx);
    rig_cuda_clear();
}

struct told {
    int n;
    char what[8][256], how[8][256];
};

static void tell(void *user, const char *what, const char *how)
{
    struct told *t = user;
    assert_true(t->n < 8);
    snprintf(t->what[t->n], 256, "%s", what), snprintf(t->how[t->n], 256, "%s", how);
    t->n++;
}

/* What a backend has chosen for what begins like this, of the choices that are named (cuBLASLt's own are not). */
static const char *chosen(struct world *w, struct told *t, const char *begin)
{
    *t = (struct told){0};
    w->be->choices(w->ctx, tell, t);
    for (int i = 0; i < t->n; i++)
        if (!strncmp(t->what[i], begin, strlen(begin))) return t->how[i];
    return NULL;
}

/* The one file in the cache folder, its lines counted; NULL where there is none. */
static char *cache(int *lines, char path[FOLDER_PATH + 300])
{
    char dir[FOLDER_PATH + 8];
    snprintf(dir, sizeof dir, "%s/dlens", home);
    DIR *d = opendir(dir);
    char *text = NULL;
    for (struct dirent *f; d && (f = readdir(d));)
        if (!strncmp(f->d_name, "tuned-", 6)) {
            snprintf(path, FOLDER_PATH + 300, "%s/%.200s", dir, f->d_name);
            text = folder_read(path, NULL);
        }
    if (d) closedir(d);
    *lines = 0;
    for (const char *s = text; s && *s; s++) *lines += *s == '\n';
    return text;
}

/* Counts what is measured. */
static void count(void *user, int64_t before)
{
    int64_t *n = user;
    assert_int_equal(before, *n);
    ++*n;
}

static void measured_once(void **state)
{
    (void)state;
    struct world w;
    struct told t;
    char path[FOLDER_PATH + 300], gemm[64], attn[64];
    int lines, more;
    int64_t measured = 0;
    const struct dl_cuda_opts counted = {.measuring = count, .user = &measured};
    begin(&w, &counted);
    once(&w);
    assert_true(measured >= 2); /* ours, and cuBLASLt's algorithms where it is there */
    const int64_t first = measured;
    snprintf(gemm, sizeof gemm, "%s", w.gemm), snprintf(attn, sizeof attn, "%s", w.attn);
    print_message("%s; %s\n", gemm, attn);
    const char *how = chosen(&w, &t, "gemm 64->192 40 n2 f16 gelu glu");
    assert_non_null(how);
    assert_string_equal(how, gemm);
    char *text = cache(&lines, path);
    assert_non_null(text);
    assert_true(lines >= 2);
    assert_non_null(strstr(text, gemm));
    assert_non_null(strstr(text, attn));
    free(text);
    once(&w); /* again in the same process */
    assert_string_equal(w.gemm, gemm);
    assert_string_equal(w.attn, attn);
    assert_int_equal(measured, first);
    end(&w);

    measured = 0;
    begin(&w, &counted); /* and in another one */
    assert_null(chosen(&w, &t, "gemm")); /* known, but not used yet */
    once(&w);
    assert_string_equal(w.gemm, gemm);
    assert_string_equal(w.attn, attn);
    assert_string_equal(chosen(&w, &t, "gemm"), gemm);
    assert_int_equal(measured, 0);
    end(&w);
    free(cache(&more, path));
    assert_int_equal(more, lines);

    /* A damaged file costs nothing but a measurement. */
    const char damaged[] = "gemm\tx\nno tab\n\ttab\ncut";
    assert_int_equal(folder_write(path, damaged, sizeof damaged - 1), 0);
    begin(&w, NULL);
    once(&w);
    assert_non_null(chosen(&w, &t, "gemm 64->192"));
    end(&w);
    text = cache(&more, path);
    assert_non_null(text);
    assert_non_null(strstr(text, "\ngemm 64->192")); /* on a line of its own */
    free(text);
}

static void taken_from_outside(void **state)
{
    (void)state;
    struct world w;
    struct told t;
    struct dl_err e = {0};
    char what[256], name[16][64], longest[400];
    int ways = 0;
    begin(&w, NULL);
    once(&w);
    assert_non_null(chosen(&w, &t, "gemm"));
    for (int i = 0; i < t.n; i++)
        if (!strncmp(t.what[i], "gemm", 4)) snprintf(what, sizeof what, "%s", t.what[i]);
    for (int n = 1; n <= 16; n++) { /* all that there are */
        w.be->way(w.ctx, n);
        once(&w);
        if (ways && !strcmp(name[ways - 1], w.gemm)) break;
        snprintf(name[ways++], 64, "%s", w.gemm);
    }
    end(&w);
    assert_true(ways > 1);
    for (int i = 0; i < ways; i++) {
        begin(&w, NULL);
        must(w.be->choose(w.ctx, what, name[i], &e), &e);
        once(&w);
        assert_string_equal(w.gemm, name[i]);
        end(&w);
    }
    begin(&w, NULL);
    must(w.be->choose(w.ctx, what, "a way of another dlens", &e), &e);
    once(&w); /* measured anew */
    assert_string_not_equal(w.gemm, "a way of another dlens");
    assert_string_equal(chosen(&w, &t, "gemm"), w.gemm);
    memset(longest, 'a', sizeof longest - 1), longest[sizeof longest - 1] = 0;
    assert_int_equal(w.be->choose(w.ctx, longest, "x", &e), -1);
    assert_int_equal(e.code, DL_EINPUT);
    end(&w);
}

/* Without tuning nothing is measured, and no file is read or written. */
static void not_measured(void **state)
{
    (void)state;
    struct world w;
    struct told t;
    char path[FOLDER_PATH + 300], guess[64];
    int lines, more;
    free(cache(&lines, path));
    begin(&w, &(struct dl_cuda_opts){.no_tuning = true});
    once(&w);
    snprintf(guess, sizeof guess, "%s", w.gemm);
    assert_null(chosen(&w, &t, "gemm"));
    end(&w);
    begin(&w, &(struct dl_cuda_opts){.way = 1}); /* the guess is the first way */
    once(&w);
    assert_string_equal(w.gemm, guess);
    end(&w);
    free(cache(&more, path));
    assert_int_equal(more, lines);
}

static int setup(void **state)
{
    (void)state;
    const struct dl_backend *be;
    struct dl_ctx *ctx;
    rig_cuda_open(&be, &ctx); /* skips where there is no GPU */
    be->close(ctx);
    if (folder_make(home)) return -1;
    return setenv("XDG_CACHE_HOME", home, 1);
}

static int teardown(void **state)
{
    (void)state;
    folder_remove(home);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(measured_once), cmocka_unit_test(taken_from_outside), cmocka_unit_test(not_measured)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
