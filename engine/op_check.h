/* op_check.h: the shape checks of op.c, one for each op; private to engine/.
 *
 * Each returns whether the arguments can be run. If not, the run's sticky error says which op, shapes and weight, and
 * what is wrong. A check reads host arrays (row maps, ids) outside dry runs only, so that a plan can be made before
 * they are known. Checks also complete arguments that have a short form (scale 0 = 1, stride 0 = 1).
 */
#ifndef DL_OP_CHECK_H
#define DL_OP_CHECK_H

#include "engine/run.h"

bool dl_check_gemm(struct dl_run *r, struct dl_gemm *a);
bool dl_check_conv(struct dl_run *r, struct dl_conv *a);
bool dl_check_gnorm(struct dl_run *r, struct dl_gnorm *a);
bool dl_check_norm(struct dl_run *r, struct dl_norm *a);
bool dl_check_lnorm(struct dl_run *r, struct dl_lnorm *a);
bool dl_check_attn(struct dl_run *r, struct dl_attn *a);
bool dl_check_embed(struct dl_run *r, struct dl_embed *a);
bool dl_check_sinus(struct dl_run *r, struct dl_sinus *a);
bool dl_check_copy(struct dl_run *r, struct dl_copy *a);
bool dl_check_add(struct dl_run *r, struct dl_add *a);
bool dl_check_pick(struct dl_run *r, struct dl_pick *a);
bool dl_check_rope(struct dl_run *r, struct dl_rope *a);
bool dl_check_resize(struct dl_run *r, struct dl_resize *a);
bool dl_check_rel_bias(struct dl_run *r, struct dl_rel_bias *a);
bool dl_check_token_mean(struct dl_run *r, struct dl_token_mean *a);
bool dl_check_sched_in(struct dl_run *r, struct dl_sched_in *a);
bool dl_check_sched_step(struct dl_run *r, struct dl_sched_step *a);
bool dl_check_image(struct dl_run *r, struct dl_image *a);

#endif
