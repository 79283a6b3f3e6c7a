/* devices.h: what a card's data sheet promises, and what that makes of a list of ops.
 *
 * The least time of an op is the larger of its FLOPs over the card's peak for the type and its bytes (each operand
 * once) over the memory bandwidth; no kernel is faster, and good ones reach 60 to 90 % of it. To each op the time
 * between two kernels of one graph is added, launch_us, an assumption that is printed beside every prediction.
 *
 * Peaks are those of matrix units with f32 sums, dense (without structured sparsity), at the published boost clock:
 * what GeForce cards give with f16 sums is twice as much and of no use here. f32 is the rate of the ordinary cores (no
 * TF32). Real cards also hold these clocks only as far as their power limit lets them.
 */
#ifndef BENCH_DEVICES_H
#define BENCH_DEVICES_H

#include "tools/bench/tape.h"

struct device {
    char name[32];
    char title[96];
    double f32, f16, bf16, e4m3; /* TFLOP/s; 0: the card has none */
    double gb_per_s;
    double memory_gib;
    double launch_us;
    char source[240];
};

/* A name of the built-in table (devices_names) or the path of a JSON file with one object of the struct's fields: name,
 * title, f32_tflops, f16_tflops, bf16_tflops, e4m3_tflops, gb_per_s, memory_gib, launch_us, source. f16_tflops and
 * gb_per_s are needed; bf16 is f16's and launch_us the table's where they are left out. */
int device_read(struct device *d, const char *name_or_path, struct dl_err *e);

/* "h200, rtx5090, ..." */
const char *device_names(void);

/* Built-in device number i, or NULL. */
const struct device *device_at(int i);

/* Peak of an op's type in FLOP/s; that of f32 where the card has none for the type. */
double device_flops(const struct device *d, int type);

/* Least time of one op in us: without the launch. */
double device_us(const struct device *d, int type, int64_t flops, int64_t bytes);

/* Sum over the cases of a phase, in ms: roofline times, and the launches. */
struct device_time {
    double op_ms, launch_ms;
};
struct device_time device_phase(const struct device *d, const struct tape *t, int phase);

/* A whole sweep, in seconds: `layers` images in batches of `batch`, `evaluations` steps each. */
struct device_sweep {
    double text_s, prepare_s, denoise_s, decode_s, total_s;
    double step_ms; /* of a full batch */
};
struct device_sweep device_sweep(const struct device *d, const struct tape *t, int layers, int batch, int evaluations);

#endif
