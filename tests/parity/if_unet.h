/* if_unet.h: synthetic checkpoints of DeepFloyd IF's UNets for the parity tests: small ones that keep what is peculiar
 * to each stage, and the configs of the published I-L and II-L.
 */
#ifndef TESTS_IF_UNET_H
#define TESTS_IF_UNET_H

#include "pipelines/unet_if.h"
#include "tests/parity/net.h"
#include "tools/synth.h"

#define IF_D "'ResnetDownsampleBlock2D'"
#define IF_DX "'SimpleCrossAttnDownBlock2D'"
#define IF_U "'ResnetUpsampleBlock2D'"
#define IF_UX "'SimpleCrossAttnUpBlock2D'"

static const struct if_shape {
    const char *name;
    struct synth_if_unet unet;
} if_shapes[] = {
    {"if1",
     {"[32, 64, 96]", "2", "[" IF_D ", " IF_DX ", " IF_DX "]", "[" IF_UX ", " IF_UX ", " IF_U "]", "null", 1, 16, 64,
      48, 6, 8, 28}},
    {"if2",
     {"[16, 16, 32, 48]", "[1, 2, 1, 3]", "[" IF_D ", " IF_D ", " IF_DX ", " IF_DX "]",
      "[" IF_UX ", " IF_UX ", " IF_U ", " IF_U "]", "40", 2, 16, 32, 48, 3, 8, 40}},
    {"if1-full",
     {"[320, 640, 960, 1280]", "3", "[" IF_D ", " IF_DX ", " IF_DX ", " IF_DX "]",
      "[" IF_UX ", " IF_UX ", " IF_UX ", " IF_U "]", "null", 1, 64, 1280, 4096, 64, 32, 64}},
    {"if2-full",
     {"[160, 320, 640, 960, 1280]", "[2, 2, 3, 5, 5]", "[" IF_D ", " IF_D ", " IF_D ", " IF_DX ", " IF_DX "]",
      "[" IF_UX ", " IF_UX ", " IF_U ", " IF_U ", " IF_U "]", "1280", 2, 64, 1280, 4096, 64, 32, 256}},
};

/* Branches added to a stream are damped, what follows an activation is raised, attention is sharpened. */
static const struct synth_gain if_gains[] = {
    {"embedding.linear_2", 1.5f},
    {"time_emb_proj", 0.7f},
    {"conv1", 1.5f},
    {"conv2", 0.7f},
    {"to_q", 1.3f},
    {"to_k", 1.3f},
    {"add_k_proj", 1.3f},
    {"pool.q_proj", 1.7f},
    {"pool.k_proj", 1.7f},
    {"positional_embedding", 0.3f},
    {NULL, 0},
};

static inline struct synth_plan if_plan(void *user, const struct synth_tensor *t)
{
    (void)user;
    return synth_plan_of(t, if_gains);
}

/* Writes FOLDER/unet/config.json of the shape with this name. */
static inline void if_unet_config(const char *name, const char *folder)
{
    const struct if_shape *s = if_shapes;
    while (strcmp(s->name, name)) s++;
    char path[1200];
    snprintf(path, sizeof path, "%s/unet", folder);
    must(synth_folder(path, e));
    must(synth_if_unet_config(path, &s->unet, e));
}

/* Writes FOLDER/unet, config and weights. */
static inline void if_unet_write(const char *name, const char *folder)
{
    char config[1200], path[1200];
    struct unet_if *u = calloc(1, sizeof *u);
    struct unet_if_config c;
    struct synth_list l = {0};
    struct bind b;
    assert_non_null(u);
    if_unet_config(name, folder);
    snprintf(config, sizeof config, "%s/unet/config.json", folder);
    snprintf(path, sizeof path, "%s/unet/diffusion_pytorch_model.safetensors", folder);
    must(unet_if_config_read(&c, config, e));
    must(bind_open_list(&b, synth_collect, &l, e));
    unet_if_bind(u, &c, &b);
    must(bind_close(&b, e));
    const struct synth_opts o = {.like = name, .out = folder, .type = DL_F32};
    must(synth_tensors(path, &l, &o, if_plan, NULL, e));
    synth_list_close(&l);
    unet_if_close(u);
    free(u);
}

/* Maps and binds what if_unet_write wrote; both to be closed. */
static inline void if_unet_open(struct unet_if *u, struct st_set **files, const char *folder)
{
    char path[1200];
    struct unet_if_config c;
    struct bind b;
    *u = (struct unet_if){0};
    snprintf(path, sizeof path, "%s/unet", folder);
    must(st_set_open(files, path, "diffusion_pytorch_model", e));
    snprintf(path, sizeof path, "%s/unet/config.json", folder);
    must(unet_if_config_read(&c, path, e));
    must(bind_open(&b, *files, &u->weights, e));
    unet_if_bind(u, &c, &b);
    must(bind_close(&b, e));
}

#endif
