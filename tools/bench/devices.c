#include "tools/bench/devices.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

/* Published numbers; where a source gives a rate with sparsity, half of it. launch_us: kernels of one graph follow each
 * other at about a microsecond. */
static const struct device devices[] = {
    {.name = "h200",
     .title = "NVIDIA H200 SXM",
     .f32 = 67,
     .f16 = 989.5,
     .bf16 = 989.5,
     .e4m3 = 1979,
     .gb_per_s = 4800,
     .memory_gib = 140,
     .launch_us = 1.0,
     .source = "NVIDIA H200 Tensor Core GPU data sheet (2024): 1,979 TFLOPS bf16 and 3,958 TFLOPS fp8 with sparsity, "
               "67 TFLOPS fp32, 4.8 TB/s, 141 GB"},
    {.name = "rtx5090",
     .title = "GeForce RTX 5090",
     .f32 = 104.8,
     .f16 = 209.5,
     .bf16 = 209.5,
     .e4m3 = 419,
     .gb_per_s = 1792,
     .memory_gib = 32,
     .launch_us = 1.2,
     .source =
         "NVIDIA RTX Blackwell GPU architecture white paper (2025), appendix: 209.5 TFLOPS fp16 and 419 TFLOPS fp8 "
         "with fp32 accumulate, 104.8 TFLOPS fp32, 1,792 GB/s, 32 GB"},
    {.name = "rtx4090",
     .title = "GeForce RTX 4090",
     .f32 = 82.6,
     .f16 = 165.2,
     .bf16 = 165.2,
     .e4m3 = 330.3,
     .gb_per_s = 1008,
     .memory_gib = 24,
     .launch_us = 1.2,
     .source =
         "NVIDIA Ada GPU architecture white paper (2022), appendix A: 165.2 TFLOPS fp16 and 330.3 TFLOPS fp8 with "
         "fp32 accumulate, 82.6 TFLOPS fp32, 1,008 GB/s, 24 GB"},
    {.name = "rtx3090",
     .title = "GeForce RTX 3090",
     .f32 = 35.6,
     .f16 = 71,
     .bf16 = 71,
     .gb_per_s = 936,
     .memory_gib = 24,
     .launch_us = 1.4,
     .source = "NVIDIA Ampere GA102 GPU architecture white paper (2021), appendix A: 71 TFLOPS fp16 with fp32 "
               "accumulate, 35.6 TFLOPS fp32, 936 GB/s, 24 GB"},
    {.name = "a6000",
     .title = "NVIDIA RTX A6000",
     .f32 = 38.7,
     .f16 = 154.8,
     .bf16 = 154.8,
     .gb_per_s = 768,
     .memory_gib = 48,
     .launch_us = 1.4,
     .source = "NVIDIA Ampere GA102 GPU architecture white paper (2021), appendix B: 154.8 TFLOPS fp16 with fp32 "
               "accumulate, 38.7 TFLOPS fp32, 768 GB/s, 48 GB"},
};

enum { DEVICES = sizeof devices / sizeof *devices };

const char *device_names(void) { return "h200, rtx5090, rtx4090, rtx3090, a6000"; }

const struct device *device_at(int i) { return i >= 0 && i < DEVICES ? &devices[i] : NULL; }

static int number(const json_t *o, const char *path, const char *key, bool needed, double *out, struct dl_err *e)
{
    const json_t *v = json_object_get(o, key);
    if (!v && !needed) return 0;
    if (!v) return dl_fail(e, DL_EINPUT, "%s: \"%s\" is needed", path, key);
    *out = json_number_value(v);
    if (json_is_number(v) && *out >= 0 && *out < 1e9 && (*out > 0 || !needed)) return 0;
    return dl_fail(e, DL_EINPUT, "%s: \"%s\" is not a positive number", path, key);
}

static void text(const json_t *o, const char *key, char *out, size_t cap)
{
    const char *s = json_string_value(json_object_get(o, key));
    if (s) snprintf(out, cap, "%s", s);
}

static int read_file(struct device *d, const char *path, struct dl_err *e)
{
    json_error_t je;
    FILE *f = fopen(path, "rb");
    if (!f)
        return dl_fail(e, errno == ENOENT ? DL_EUSAGE : DL_EINPUT,
                       "--predict %s: neither a card that dlens knows (%s) nor a file that can be read: %s", path,
                       device_names(), strerror(errno));
    json_t *o = json_loadf(f, JSON_REJECT_DUPLICATES, &je);
    fclose(f);
    int rc = -1;
    *d = (struct device){.launch_us = 1.2, .memory_gib = 24};
    snprintf(d->source, sizeof d->source, "%s", path);
    if (!json_is_object(o)) {
        dl_fail(e, DL_EINPUT, "%s: no JSON object: line %d: %s", path, o ? 1 : je.line, o ? "another value" : je.text);
        goto out;
    }
    if (number(o, path, "f16_tflops", true, &d->f16, e) < 0 || number(o, path, "gb_per_s", true, &d->gb_per_s, e) < 0)
        goto out;
    d->bf16 = d->f16, d->f32 = d->f16 / 2;
    if (number(o, path, "bf16_tflops", false, &d->bf16, e) < 0 || number(o, path, "f32_tflops", false, &d->f32, e) < 0)
        goto out;
    if (number(o, path, "e4m3_tflops", false, &d->e4m3, e) < 0 ||
        number(o, path, "launch_us", false, &d->launch_us, e) < 0)
        goto out;
    if (number(o, path, "memory_gib", false, &d->memory_gib, e) < 0) goto out;
    text(o, "name", d->name, sizeof d->name), text(o, "source", d->source, sizeof d->source);
    snprintf(d->title, sizeof d->title, "%s", *d->name ? d->name : path);
    text(o, "title", d->title, sizeof d->title);
    rc = 0;
out:
    json_decref(o);
    return rc;
}

int device_read(struct device *d, const char *name, struct dl_err *e)
{
    for (int i = 0; i < DEVICES; i++)
        if (!strcmp(name, devices[i].name)) {
            *d = devices[i];
            return 0;
        }
    return read_file(d, name, e);
}

double device_flops(const struct device *d, int type)
{
    double t = type == DL_F16 ? d->f16 : type == DL_BF16 ? d->bf16 : type == DL_E4M3 ? d->e4m3 : d->f32;
    return 1e12 * (t > 0 ? t : d->f32);
}

double device_us(const struct device *d, int type, int64_t flops, int64_t bytes)
{
    double compute = (double)flops / device_flops(d, type) * 1e6, move = (double)bytes / (d->gb_per_s * 1e9) * 1e6;
    return compute > move ? compute : move;
}

struct device_time device_phase(const struct device *d, const struct tape *t, int phase)
{
    struct device_time sum = {0};
    for (int i = 0; i < t->n; i++) {
        const struct tape_case *k = &t->c[i];
        if (k->phase != phase) continue;
        sum.op_ms += k->count * device_us(d, k->run_t, k->flops, k->bytes) * 1e-3;
        sum.launch_ms += k->count * d->launch_us * 1e-3;
    }
    return sum;
}

static double phase_s(const struct device *d, const struct tape *t, int phase)
{
    struct device_time p = device_phase(d, t, phase);
    return (p.op_ms + p.launch_ms) * 1e-3;
}

struct device_sweep device_sweep(const struct device *d, const struct tape *t, int layers, int batch, int evaluations)
{
    struct device_sweep s = {.text_s = phase_s(d, t, TAPE_TEXT), .prepare_s = phase_s(d, t, TAPE_PREPARE)};
    int full = layers / batch, rest = layers % batch, again = evaluations - 1;
    double step = phase_s(d, t, TAPE_STEP);
    s.step_ms = step * 1e3;
    s.denoise_s = full * (phase_s(d, t, TAPE_FIRST) + again * step);
    if (rest) s.denoise_s += phase_s(d, t, TAPE_REST_FIRST) + again * phase_s(d, t, TAPE_REST_STEP);
    s.decode_s = layers * phase_s(d, t, TAPE_DECODE);
    s.total_s = s.text_s + s.prepare_s + s.denoise_s + s.decode_s;
    return s;
}
