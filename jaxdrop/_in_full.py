"""Programs that are traced to be analyzed, and not to be run."""

from __future__ import annotations

import jax

# Whether functions that save memory or work, by blocks or by gathering what they keep, form whole
# arrays and drop by masks. Values and masks are the same; the program is arithmetic on masks, which
# rules for (mean, variance) can follow. The caches of `jax.jit` tell apart programs that are traced
# with another value.
in_full = jax.make_user_context(False)
