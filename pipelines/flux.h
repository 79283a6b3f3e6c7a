/* flux.h: FluxTransformer2DModel (Black Forest Labs 2024; Esser et al. 2024, 2403.03206; diffusers'
 * transformer_flux.py, normalization.py, embeddings.py).
 *
 * The latent is packed: 2 x 2 pixels of C channels are one token of in_c = 4 C values, channel c * 4 + dy * 2 + dx, so
 * a packed latent is [h / 2][w / 2][in_c]. Text and image tokens attend to each other in one joint sequence [text |
 * image] of L = tokens + h / 2 * w / 2 tokens. `doubles` blocks have weights of their own for either part, `singles`
 * blocks one set for both. Concatenation is placement: a part is a span of tokens of the joint activation.
 *
 * Every norm is a layer norm without weights whose scale and shift, like the gates of the branches, are linear in
 * silu(temb), temb = time (+ guidance) + pooled text. They depend on step and pooled text, never on the latent, so the
 * network is split in three (see DESIGN):
 *
 *   flux_text    context_embedder of every text condition
 *   flux_steps   a table of all modulation rows of all steps; over a quarter of the weights serves this alone
 *   flux_step    the rest, once per step
 *
 * Weights are kept in two sets for that reason: `prep` for flux_steps alone, which may be let go after it, and
 * `weights` for the rest. Both can be streamed (engine/stream.h): stage i of either belongs to block i, the double ones
 * first, and prep has one stage more, the head's; the embedders belong to no stage. flux_steps goes through all stages
 * of prep once, flux_step through those of weights.
 *
 * Half precision. diffusers has the timestep t (0..1000) and the guidance in the model's type, divides t by 1000 in it
 * and multiplies both by 1000 in it, which in bf16 turns 750 into 752 and guidance 3.5 into 3504; flux_time and
 * flux_guide do the same. The modulation table is f32 whatever the type. In f16, where diffusers clips the stream
 * between the blocks at 65504, the stream is f32. In e4m3 the blocks' products are done in 8 bits, the embedders', the
 * modulation's and the head's are not.
 */
#ifndef DL_FLUX_H
#define DL_FLUX_H

#include "engine/stream.h"
#include "loaders/bind.h"

enum { FLUX_BLOCKS = 256, FLUX_AXES = 3, FLUX_WAVE = 256 /* channels of the sinusoids */ };

struct flux_config {
    int in_c, heads, head_dim, width; /* width = heads * head_dim */
    int doubles, singles;
    int text_c, pooled_c;
    int axes[FLUX_AXES]; /* channels of a head turned by: nothing, the token's row, its column; their sum is head_dim */
    bool guidance;       /* takes the guidance as an input (dev) */
};

/* One part (image or text) of a double block. */
struct flux_part {
    int64_t mod_at; /* column of the table: shift, scale, gate of attention, then of the feed-forward; 6 widths */
    struct dl_w mod, mod_b;
    struct dl_w qkv, qkv_b, q_g, k_g, out, out_b, ff1, ff1_b, ff2, ff2_b;
};

struct flux_double {
    struct flux_part image, text;
};

struct flux_single {
    int64_t mod_at; /* shift, scale, gate; 3 widths */
    struct dl_w mod, mod_b;
    struct dl_w qkv, qkv_b, q_g, k_g, mlp, mlp_b, out, out_b; /* out takes [attention | mlp] */
};

struct flux_mlp { /* linear, silu, linear */
    struct dl_w l1, l1_b, l2, l2_b;
};

struct flux {
    struct flux_config cfg;
    struct flux_mlp time, guide, pooled;
    struct dl_w context, context_b, x, x_b;
    struct flux_double *dbl; /* [doubles], owned */
    struct flux_single *sgl; /* [singles], owned */
    int64_t head_at;         /* scale, shift (in this order); 2 widths */
    struct dl_w head, head_b, out, out_b;
    int64_t table_width; /* columns of the table: 12 widths for a double block, 3 for a single one, 2 for the head */
    struct dl_wset prep, weights;
};

/* Reads transformer/config.json at `path`. Anything that this code does not compute is an error that names the key. */
int flux_config_read(struct flux_config *c, const char *path, struct dl_err *e);

/* Allocates the blocks and binds (or lists) every tensor. In bind mode b->set is changed on the way and is
 * &f->weights in the end. */
int flux_bind(struct flux *f, const struct flux_config *c, struct bind *b, struct dl_err *e);
void flux_close(struct flux *f);

/* The joint sequence's cosines and sines: out [tokens + h * w][head_dim / 2][2], host. Text tokens are not turned;
 * image token (y, x) of a packed latent [h][w] is at position (0, y, x). */
void flux_rope(const struct flux_config *c, int tokens, int h, int w, float *out);
int64_t flux_rope_count(const struct flux_config *c, int tokens, int h, int w); /* floats */

/* What the network's sinusoids take: of a scheduler's timestep (0..1000), of a guidance scale. */
float flux_time(float t, int type);
float flux_guide(float guidance, int type);

/* y [conds][1][tokens][width] = context_embedder(text [conds][1][tokens][text_c]). */
void flux_text(struct dl_run *r, struct flux *f, dl_act text, dl_act y);

/* table [conds][steps][table_width] f32 in backend memory. t: host [steps], as flux_time gives them; guide: host [1] as
 * flux_guide gives it, not looked at where the network takes none; pooled [conds][1][1][pooled_c]. */
void flux_steps(struct dl_run *r, struct flux *f, const float *t, int steps, const float *guide, dl_act pooled,
                float *table);
int64_t flux_table_bytes(const struct flux *f, int steps, int conds);

struct flux_rows {
    int n;                   /* R */
    const int32_t *lat_row;  /* host [R]: rows of x */
    const int32_t *cond_row; /* host [R]: rows of text, and of the table where it has more than one condition */
    dl_act text;             /* as flux_text left it */
    const float *table;      /* as flux_steps left it */
    int steps, table_conds;  /* of the table; one condition serves all rows */
    const float *rope;       /* flux_rope's, in backend memory */
};

/* y [R][h][w][in_c] = the network's prediction for the packed latents x [latents][h][w][in_c] in step r->step. */
void flux_step(struct dl_run *r, struct flux *f, dl_act x, const struct flux_rows *rows, dl_act y);

#endif
