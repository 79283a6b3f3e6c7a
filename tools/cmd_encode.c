#include "lens/snapshot.h"
#include "tools/gen.h"

#include <stdio.h>
#include <stdlib.h>

static const char help[] =
    "usage: dlens encode --model DIR (--prompt TEXT | --prompts FILE) --out FILE.safetensors [options]\n"
    "\n"
    "Runs the text encoder once over each prompt and stores every hidden state, for dlens replay or for numpy.\n"
    "\n"
    "  --model DIR        folder in diffusers layout, or a hub id that lies in the local Hugging Face cache\n"
    "  --prompt TEXT      the prompt\n"
    "  --prompts FILE     one prompt a line, or JSON lines {\"prompt\": ..., \"negative\": ...}\n"
    "  --negative TEXT    negative prompt, stored beside (empty)\n"
    "  --text hf5|hf4     text cleaning of transformers 5 (default) or 4 with ftfy, as in the tutorial\n"
    "  --encoder NAME, --other MODE, --max-tokens N, --clean-caption on|off   as for dlens sweep\n"
    "  --out FILE         safetensors: p000.text_encoder.hidden_states [N+1][tokens][dim] (k = 0..N, before the final\n"
    "                     norm), input_ids, attention_mask, final, and the same under negative.\n"
    "  --dry-run          open the model, count and measure, write nothing\n"
    "  --device NAME      cpu (what auto means), cuda, cuda:N     --threads N   CPU threads (all)\n"
    "  --json             one JSON object on stdout        --quiet       errors only\n";

static const struct option options[] = {CLI_OPTIONS,
                                        {"model", required_argument, NULL, GEN_MODEL},
                                        {"out", required_argument, NULL, GEN_OUT},
                                        {"prompt", required_argument, NULL, GEN_PROMPT},
                                        {"prompts", required_argument, NULL, GEN_PROMPTS},
                                        {"negative", required_argument, NULL, GEN_NEGATIVE},
                                        {"text", required_argument, NULL, GEN_TEXT},
                                        {"encoder", required_argument, NULL, GEN_ENCODER},
                                        {"other", required_argument, NULL, GEN_OTHER},
                                        {"max-tokens", required_argument, NULL, GEN_MAX_TOKENS},
                                        {"clean-caption", required_argument, NULL, GEN_CLEAN_CAPTION},
                                        {0}};

struct store {
    struct cli *cli;
    struct snapshot_writer *w;
};

static int seen(void *user, int i, const char *text, const struct text_states st[PIPE_ENCODERS], struct dl_err *e)
{
    struct store *s = user;
    gen_warn_cut(s->cli, i, st);
    return snapshot_add(s->w, i, text, st, e);
}

static int encode(struct cli *c, void *user, char *line, struct dl_err *e)
{
    const struct gen_args *a = user;
    struct prompts ps = {0};
    struct gen_model m = {0};
    struct lens_conds order = {0}, unused = {0};
    struct store s = {.cli = c};
    char *model = NULL;
    int rc = -1;
    if (!a->out && !c->dry_run) return dl_fail(e, DL_EUSAGE, "--out FILE.safetensors is needed");
    struct pipe_lens lens;
    if (gen_prompts(a, &ps, e) < 0 || gen_open(c, a, &m, e) < 0 || gen_lens(a, m.pipe, &lens, e) < 0 ||
        lens_conds_open(&order, m.pipe, ps.p, ps.n, 0, e) < 0)
        goto done;
    const struct pipe_encoder *enc = &m.pipe->encoder[lens.encoder];
    int64_t bytes = 0;
    for (int q = 0; q < m.pipe->n_encoders; q++)
        bytes += (int64_t)(order.n_prompts + order.n_negatives) * (m.pipe->encoder[q].blocks + 2) *
                 m.pipe->encoder[q].tokens * m.pipe->encoder[q].width * (int64_t)sizeof(float);
    char size[32];
    cli_say(c, "plan: %d prompt%s and %d negative%s, %d states of %d x %d each: %s", ps.n, ps.n == 1 ? "" : "s",
            order.n_negatives, order.n_negatives == 1 ? "" : "s", enc->blocks + 1, enc->tokens, enc->width,
            cli_bytes(size, bytes));
    json_object_set_new(c->result, "prompts", json_integer(ps.n));
    if (c->dry_run) {
        rc = 0;
        goto done;
    }
    json_t *id = json_pack("{s:s, s:s, s:s, s:s}", "version", DLENS_VERSION, "model", m.pipe->dir.spec, "class",
                           m.pipe->dir.class_name, "text", a->text == TEXT_HF4 ? "hf4" : "hf5");
    model = id ? json_dumps(id, JSON_COMPACT) : NULL;
    json_decref(id);
    if (!model) dl_fail(e, DL_ENOMEM, "no memory for metadata");
    if (!model || snapshot_create(&s.w, a->out, m.pipe, ps.p, &order, model, e) < 0) goto done;
    struct lens_text t = {.prompt = ps.p,
                          .n_prompts = ps.n,
                          .lens = lens,
                          .guided = true,
                          .seen = seen,
                          .user = &s,
                          .stop = cli_catch_interrupt()};
    rc = lens_encode(m.pipe, &t, &unused, e);
    if (rc < 0)
        snapshot_drop(s.w);
    else
        rc = snapshot_finish(s.w, e);
    json_object_set_new(c->result, "out", cli_string(a->out));
    snprintf(line, 4096, "%s", a->out);
done:
    free(model);
    lens_conds_close(&order);
    lens_conds_close(&unused);
    gen_close(&m);
    prompts_close(&ps);
    return rc;
}

static int take(void *user, int v, struct dl_err *e) { return gen_take(user, v, e); }

int cmd_encode(int argc, char **argv)
{
    struct gen_args a;
    gen_defaults(&a);
    return cli_main(
        argc, argv,
        &(struct cli_main){.command = "encode", .help = help, .options = options, .take = take, .run = encode}, &a);
}
