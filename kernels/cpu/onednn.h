/* onednn.h: variants of ops that oneDNN or hand-written code does better than the reference. */
#ifndef CPU_ONEDNN_H
#define CPU_ONEDNN_H

#include "engine/op.h"

/* Overrides the entries of a table that ref_init has filled. */
void onednn_init(struct dl_ops *ops);

/* Whether this machine's oneDNN has bf16 primitives. */
bool onednn_has_bf16(void);

#endif
