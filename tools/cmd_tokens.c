#include "tools/gen.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: dlens tokens --model DIR (--prompt TEXT | --prompts FILE) [options]\n"
    "\n"
    "How the model's tokenizer cuts prompts, and what does not fit.\n"
    "\n"
    "  --model DIR        folder in diffusers layout, or a hub id that lies in the local Hugging Face cache\n"
    "  --prompt TEXT      the prompt\n"
    "  --prompts FILE     one prompt a line, or JSON lines {\"prompt\": ...}\n"
    "  --text hf5|hf4     text cleaning of transformers 5 (default) or 4 with ftfy, as in the tutorial\n"
    "  --max-tokens N, --clean-caption on|off   as for dlens sweep\n"
    "  --json             one object a line for each prompt; ids include padding, pieces do not:\n"
    "                     {\"prompt\": ..., \"text_encoder\": {\"ids\": [...], \"pieces\": [...], \"truncated\": "
    "\"...\"}}\n";

static const struct option options[] = {CLI_OPTIONS,
                                        {"model", required_argument, NULL, GEN_MODEL},
                                        {"prompt", required_argument, NULL, GEN_PROMPT},
                                        {"prompts", required_argument, NULL, GEN_PROMPTS},
                                        {"text", required_argument, NULL, GEN_TEXT},
                                        {"max-tokens", required_argument, NULL, GEN_MAX_TOKENS},
                                        {"clean-caption", required_argument, NULL, GEN_CLEAN_CAPTION},
                                        {0}};

static json_t *to_json(const struct token_list *t)
{
    json_t *ids = json_array(), *pieces = json_array();
    for (int i = 0; i < t->n_ids; i++) json_array_append_new(ids, json_integer(t->ids[i]));
    for (int i = 0; i < t->n_pieces; i++) json_array_append_new(pieces, json_string_nocheck(t->pieces[i]));
    return json_pack("{s:o, s:o, s:s}", "ids", ids, "pieces", pieces, "truncated", t->truncated);
}

static void print(const struct token_list *t, const char *folder)
{
    printf("  %s: %d of %d tokens\n", folder, t->n_pieces, t->n_ids);
    for (int i = 0; i < t->n_pieces; i++) printf("  %4d  %6d  %s\n", i, t->ids[i], t->pieces[i]);
    if (*t->truncated) printf("  cut off: \"%s\"\n", t->truncated);
}

static int tokens(struct cli *c, void *user, char *line, struct dl_err *e)
{
    const struct gen_args *a = user;
    struct prompts ps = {0};
    struct gen_model m = {0};
    struct pipe_lens lens;
    int rc = -1;
    (void)line;
    if (gen_prompts(a, &ps, e) < 0 || gen_open(c, a, &m, e) < 0 || gen_lens(a, m.pipe, &lens, e) < 0) goto done;
    rc = 0;
    for (int i = 0; i < ps.n && rc == 0; i++) {
        json_t *o = json_pack("{s:s}", "prompt", ps.p[i].text);
        if (!c->json) printf("%s\n", ps.p[i].text);
        for (int q = 0; q < m.pipe->n_encoders && rc == 0; q++) {
            struct token_list t = {0};
            rc = pipe_tokens(m.pipe, q, ps.p[i].text, &t, e);
            if (rc == 0 && c->json)
                json_object_set_new(o, m.pipe->encoder[q].folder, to_json(&t));
            else if (rc == 0)
                print(&t, m.pipe->encoder[q].folder);
            token_list_free(&t);
        }
        if (rc == 0 && c->json) json_dumpf(o, stdout, JSON_COMPACT), putchar('\n');
        json_decref(o);
    }
    c->json = false; /* the lines are the result */
done:
    gen_close(&m);
    prompts_close(&ps);
    return rc;
}

static int take(void *user, int v, struct dl_err *e) { return gen_take(user, v, e); }

int cmd_tokens(int argc, char **argv)
{
    struct gen_args a;
    gen_defaults(&a);
    return cli_main(
        argc, argv,
        &(struct cli_main){
            .command = "tokens", .help = help, .options = options, .no_dry_run = true, .take = take, .run = tokens},
        &a);
}
