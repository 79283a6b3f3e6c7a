typedef int dl_placeholder_lens;
