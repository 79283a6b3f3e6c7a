/* pairs.h: that a denoiser's rows depend on their own latent and condition alone, byte for byte: shared or copied, in
 * any order, together or each in a run of its own.
 */
#ifndef TESTS_PAIRS_H
#define TESTS_PAIRS_H

#include "tests/parity/net.h"

enum { PAIRS_MAX = 16, PAIRS_STEPS = 4 /* timesteps of the stored inputs */ };

/* Inputs of a run, as rows of the stored ones, and the (latent, condition) among them for each row of its result. */
struct pairs {
    int x_n, conds, n;
    int32_t latents[PAIRS_MAX], texts[PAIRS_MAX];    /* [x_n], [conds] */
    int32_t lat_row[PAIRS_MAX], cond_row[PAIRS_MAX]; /* [n] */
};

/* n rows: row i is latent i with text i % texts. */
static inline struct pairs pairs_of(int n, int texts)
{
    struct pairs p = {.x_n = n, .conds = texts, .n = n};
    for (int i = 0; i < n; i++) p.latents[i] = p.lat_row[i] = i, p.cond_row[i] = i % texts;
    for (int i = 0; i < texts; i++) p.texts[i] = i;
    return p;
}

/* Runs a network on p, in every step; its results y are for net_free. */
typedef void pairs_run(void *user, const struct pairs *p, dl_act y[PAIRS_STEPS]);

static inline void pairs_free(const struct machine *mc, const dl_act y[PAIRS_STEPS])
{
    for (int s = 0; s < PAIRS_STEPS; s++) net_free(mc, y[s].p);
}

static inline void pairs_check(const struct machine *mc, pairs_run *run, void *user)
{
    enum { PLAIN, SHARED, COPIES, OTHER, RUNS };
    static const struct pairs runs[RUNS] = {
        /* every pair of two latents and two texts */
        {.x_n = 4,
         .latents = {0, 0, 1, 1},
         .conds = 2,
         .texts = {0, 1},
         .n = 4,
         .lat_row = {0, 1, 2, 3},
         .cond_row = {0, 1, 0, 1}},
        {.x_n = 2,
         .latents = {0, 1},
         .conds = 2,
         .texts = {0, 1},
         .n = 4,
         .lat_row = {0, 0, 1, 1},
         .cond_row = {0, 1, 0, 1}},
        {.x_n = 2,
         .latents = {0, 1},
         .conds = 4,
         .texts = {0, 1, 0, 1},
         .n = 4,
         .lat_row = {0, 0, 1, 1},
         .cond_row = {0, 1, 2, 3}},
        {.x_n = 2, .latents = {0, 1}, .conds = 2, .texts = {0, 1}, .n = 3, .lat_row = {1, 1, 0}, .cond_row = {1, 0, 1}},
    };
    const struct pairs *plain = &runs[PLAIN];
    dl_act y[RUNS][PAIRS_STEPS], one[PAIRS_STEPS];
    for (int i = 0; i < RUNS; i++) run(user, &runs[i], y[i]);
    for (int s = 0; s < PAIRS_STEPS; s++) {
        net_same_rows(y[PLAIN][s], 0, y[SHARED][s], 0, 4, "shared latents");
        net_same_rows(y[PLAIN][s], 0, y[COPIES][s], 0, 4, "a condition for each row");
        for (int i = 0; i < 3; i++) net_same_rows(y[PLAIN][s], 3 - i, y[OTHER][s], i, 1, "other order");
        /* and rows do differ */
        for (int i = 1; i < 3; i++)
            assert_memory_not_equal(y[PLAIN][s].p, dl_act_rows(y[PLAIN][s], i, 1).p, dl_act_bytes(y[PLAIN][s]) / 4);
    }
    for (int i = 0; i < plain->n; i++) {
        struct pairs alone = {.x_n = 1, .latents = {plain->latents[i]}, .conds = 1, .n = 1};
        alone.texts[0] = plain->cond_row[i];
        run(user, &alone, one);
        for (int s = 0; s < PAIRS_STEPS; s++) net_same_rows(y[PLAIN][s], i, one[s], 0, 1, "one row");
        pairs_free(mc, one);
    }
    for (int i = 0; i < RUNS; i++) pairs_free(mc, y[i]);
}

#endif
