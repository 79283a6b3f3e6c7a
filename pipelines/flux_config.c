#include "loaders/config.h"
#include "pipelines/flux.h"

int flux_config_read(struct flux_config *f, const char *path, struct dl_err *e)
{
    static const int64_t flux1[FLUX_AXES] = {16, 56, 56};
    struct cfg *c;
    if (cfg_open(&c, path, e) < 0) return -1;
    *f = (struct flux_config){
        .in_c = (int)cfg_int(c, "in_channels", 64, 4, 65536),
        .heads = (int)cfg_int(c, "num_attention_heads", 24, 1, 1024),
        .head_dim = (int)cfg_int(c, "attention_head_dim", 128, 8, 1024),
        .doubles = (int)cfg_int(c, "num_layers", 19, 0, FLUX_BLOCKS / 2),
        .singles = (int)cfg_int(c, "num_single_layers", 38, 0, FLUX_BLOCKS / 2),
        .text_c = (int)cfg_int(c, "joint_attention_dim", 4096, 1, 65536),
        .pooled_c = (int)cfg_int(c, "pooled_projection_dim", 768, 1, 65536),
        .guidance = cfg_bool(c, "guidance_embeds", false),
    };
    int64_t axes[FLUX_AXES] = {0}, sum = 0;
    int n = cfg_ints(c, "axes_dims_rope", 0, FLUX_AXES, axes, 0, 1024);
    if (n != 0 && n != FLUX_AXES) cfg_fail(c, "axes_dims_rope", "%d axes, and a FLUX token has %d", n, FLUX_AXES);
    for (int i = 0; i < FLUX_AXES; i++) {
        f->axes[i] = (int)(n ? axes[i] : flux1[i]);
        sum += f->axes[i];
        if (f->axes[i] % 2) cfg_fail(c, "axes_dims_rope", "%d channels are no pairs", f->axes[i]);
    }
    if (sum != f->head_dim)
        cfg_fail(c, "axes_dims_rope", "%d channels in all, and attention_head_dim is %d", (int)sum, f->head_dim);
    if (f->head_dim % 8) cfg_fail(c, "attention_head_dim", "%d is no multiple of 8", f->head_dim);
    if (f->in_c % 4) cfg_fail(c, "in_channels", "%d: a token is four latent pixels", f->in_c);
    if (cfg_has(c, "out_channels") && cfg_int(c, "out_channels", f->in_c, 1, 65536) != f->in_c)
        cfg_fail(c, "out_channels", "other than in_channels: this is not FLUX.1 schnell or dev");
    cfg_int(c, "patch_size", 1, 1, 1);
    f->width = f->heads * f->head_dim;
    if (f->width > 65536) cfg_fail(c, "num_attention_heads", "%d channels in all; at most 65536", f->width);
    int rc = cfg_check(c, e);
    cfg_close(c);
    return rc;
}
