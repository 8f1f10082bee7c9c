# SPDX-License-Identifier: BSD-3-Clause
"""What Fractal's config file and metas say: schema, merging, batching, units."""
