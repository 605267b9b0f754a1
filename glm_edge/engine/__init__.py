"""The engine: one thread owns the llama context and answers requests. Knows nothing of HTTP.

engine.py       LlamaEngine: loads the model, makes sequences of requests
loop.py         what its thread does: takes sequences in, a batch a turn, ends
scheduler.py    which tokens go into the next batch; who waits, runs, is preempted
kv_cache.py     which cells of the cache are reused, offloaded to the prefix store, restored, evicted
sequence.py     one answer being computed
memory_plan.py  how the model is put into memory; remote.py gives layers to other machines
latency.py      what batches cost here, measured; eta.py estimates waits
drafts.py       guesses of the next tokens, verified where that pays; automaton.py finds what they are copied from
text/           prompts, token ids, stop strings       sampling/       logits to a token
prefix_cache/   computed prefixes outside of the KV cache
"""
