/* Times one encoding by a T5 text encoder, its weights loaded whole or streamed block by block, and tells the largest
 * memory the process ever held (VmHWM).
 *
 *   t5_encode FOLDER [tokens 77] [texts 1] [f32|bf16] [all|stream] [passes 1] [threads]
 *
 * FOLDER holds config.json and the weights, as text_encoder/ of DeepFloyd IF does. Token ids are made up. */
#include "kernels/cpu/cpu.h"
#include "loaders/safetensors.h"
#include "pipelines/t5.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* MiB after `key` in /proc/self/status. */
static double status_mib(const char *key)
{
    char line[256];
    double kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, key, strlen(key))) kib = atof(line + strlen(key));
    if (f) fclose(f);
    return kib / 1024;
}

static void must(int rc, const struct dl_err *e)
{
    if (rc >= 0) return;
    fprintf(stderr, "%s\n", e->msg);
    exit(e->code);
}

struct job {
    struct t5 t5;
    int32_t *ids;
    int texts, tokens;
    dl_act final;
};

static void program(struct dl_run *r, struct job *j)
{
    const struct t5_config *c = &j->t5.cfg;
    dl_act states = dl_act_lo(r, DL_F32, (c->layers + 1) * j->texts, 1, j->tokens, c->width);
    j->final = dl_act_lo(r, DL_F32, j->texts, 1, j->tokens, c->width);
    t5_run(r, &j->t5, j->ids, NULL, j->texts, c->layers, states);
    t5_final(r, &j->t5, dl_act_rows(states, c->layers * j->texts, j->texts), j->final);
}

int main(int argc, char **argv)
{
    struct dl_err e = {0};
    if (argc < 2) return fprintf(stderr, "usage: t5_encode FOLDER [tokens] [texts] [f32|bf16] [all|stream] [passes]\n");
    struct job j = {.tokens = argc > 2 ? atoi(argv[2]) : 77, .texts = argc > 3 ? atoi(argv[3]) : 1};
    int type = argc > 4 && !strcmp(argv[4], "f32") ? DL_F32 : DL_BF16, passes = argc > 6 ? atoi(argv[6]) : 1;
    bool streamed = argc <= 5 || strcmp(argv[5], "all") != 0;
    char path[1024];
    const struct dl_backend *be;
    struct dl_ctx *ctx;
    struct st_set *files;
    struct t5_config cfg;
    struct bind b;
    struct dl_stream *s = NULL;
    struct dl_run r;
    double t0 = now();
    must(cpu_open(&be, &ctx, &(struct dl_cpu_opts){.threads = argc > 7 ? atoi(argv[7]) : 0}, &e), &e);
    snprintf(path, sizeof path, "%s/config.json", argv[1]);
    must(t5_config_read(&cfg, path, &e), &e);
    must(st_set_open(&files, argv[1], "model", &e), &e);
    must(bind_open(&b, files, &j.t5.weights, &e), &e);
    must(t5_bind(&j.t5, &cfg, &b, &e), &e);
    must(bind_close(&b, &e), &e);
    j.ids = calloc((size_t)j.texts * (size_t)j.tokens, sizeof *j.ids);
    if (!j.ids) return DL_ENOMEM;
    for (int i = 0; i < j.texts * j.tokens; i++) j.ids[i] = i * 7919 % cfg.vocab;

    dl_run_open(&r, be, ctx, type);
    program(&r, &j);
    must(dl_run_check(&r, &e), &e);
    struct dl_stream_sizes z = dl_stream_sizes(&j.t5.weights);
    int64_t bytes = r.arena.peak_bytes;
    double flops = (double)r.account.flops;
    void *work;
    must(be->alloc(ctx, bytes, &work, &e), &e);
    double t1 = now();
    must(streamed ? dl_stream_open(&s, &r, &j.t5.weights, 0, &e) : dl_run_load(&r, &j.t5.weights, &e), &e);
    r.stream = s;
    printf("%s, %d texts of %d tokens, %s: %.1f MiB resident, %.1f MiB streamed (slots of %.1f), %.1f MiB of files, "
           "arena %.1f MiB; planned in %.2f s, %s in %.2f s\n",
           dl_type_name(type), j.texts, j.tokens, streamed ? "streamed" : "all loaded",
           (double)z.resident_bytes / 0x1p20, (double)z.streamed_bytes / 0x1p20, (double)z.slot_bytes / 0x1p20,
           (double)z.pass_bytes / 0x1p20, (double)bytes / 0x1p20, t1 - t0, streamed ? "slots" : "loaded", now() - t1);
    for (int i = 0; i < passes; i++) {
        struct dl_stream_stats before = s ? dl_stream_stats(s) : (struct dl_stream_stats){0};
        double t = now(), sum = 0;
        dl_run_bind(&r, work, bytes);
        if (s) must(dl_stream_begin(s, 0, t5_stages(cfg.layers), 1, &e), &e);
        program(&r, &j);
        if (s) dl_stream_end(s);
        must(dl_run_check(&r, &e), &e);
        t = now() - t;
        for (int64_t k = 0; k < dl_act_bytes(j.final) / 4; k++) sum += (double)((float *)j.final.p)[k];
        double wait = s ? (dl_stream_stats(s).wait_ms - before.wait_ms) * 1e-3 : 0;
        printf(
            "pass %d: %.2f s, of them %.2f s waiting for weights; %.0f GFLOP/s outside; %.2f GB/s of files; sum %.9g; "
            "VmHWM %.0f MiB\n",
            i, t, wait, flops / (t - wait) * 1e-9, s ? (double)z.pass_bytes / t * 1e-9 : 0.0, sum,
            status_mib("VmHWM:"));
    }
    dl_stream_close(s);
    dl_run_close(&r);
    be->free(ctx, work);
    t5_close(&j.t5);
    st_set_close(files);
    be->close(ctx);
    free(j.ids);
    return 0;
}
