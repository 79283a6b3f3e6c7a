typedef int dl_placeholder_pipelines;
