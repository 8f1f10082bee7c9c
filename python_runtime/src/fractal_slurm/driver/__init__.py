# SPDX-License-Identifier: BSD-3-Clause
"""One run from its first job to its last record: the journal, and all that is done about jobs."""
