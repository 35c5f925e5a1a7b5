/* Statistics of the batch for weightings that depend on it (`Relative` in weighting/relative.py): an additional pass over
 * the examples, and the exponents computed from it. Included by rows.c.
 *
 * The mean probability pi of a class may be near 1, so 1 - pi is summed instead. An example whose most probable class it
 * is contributes 1 - p_max, which the steps compute to full precision; the others contribute 1 minus a number below 1/2.
 */
static const double LEAST_ROOM = 1e-6; /* lower limit of 1 - pi; see weighting/_numerics.py */

/* Allocate the statistics of n examples, followed by `more` numbers per example; NULL if there is no memory. */
static double *room_for_statistics(const Job *job, int64_t n, int more, Statistics *statistics) {
    int64_t classes = job->binary ? 2 : job->classes;
    double *room = malloc(((n + 1) * (3 + more) + 3 * classes) * sizeof(double) + (n + 1) * sizeof(int32_t));
    if (!room) return NULL;
    statistics->doubt = room, statistics->rest = room + n, statistics->share = room + 2 * n;
    statistics->sums = room + (3 + more) * n;
    statistics->top = (int32_t *)(statistics->sums + 3 * classes);
    memset(statistics->sums, 0, 3 * classes * sizeof(double));
    return room;
}

/* rests := for each class, the sum over examples of share times 1 - p. Return the sum of the shares; *doubt := the sum of
 * share times p_max - p. rests follows the sums in memory, and has the same size. */
static double sums_of_statistics(const Job *job, int64_t n, double **rests, double *doubt) {
    const Statistics *statistics = job->statistics;
    int64_t classes = job->binary ? 2 : job->classes;
    double *likeliest = statistics->sums + classes, whole = 0.0;
    *rests = statistics->sums + 2 * classes;
    *doubt = 0.0;
    for (int64_t i = 0; i < n; i++) {
        if (statistics->top[i] < 0) statistics->share[i] = 0.0;
        double share = statistics->share[i];
        if (share == 0.0) continue;
        whole += share;
        *doubt += statistics->doubt[i];
        likeliest[statistics->top[i]] += share;
        (*rests)[statistics->top[i]] += share * statistics->rest[i];
        if (job->binary) statistics->sums[1 - statistics->top[i]] += share * statistics->rest[i];
    }
    for (int64_t k = 0; k < classes; k++) {
        double others = whole - likeliest[k] - statistics->sums[k];
        (*rests)[k] += others > 0.0 ? others : 0.0;
    }
    return whole;
}

/* job->exponents := the exponents of p / p_max. Exponentials are kept in `out` if it can hold them. *kept must be freed
 * after the exponents have been used. */
static int find_exponents(Job *job, double counted, int64_t *where, int threads, void **kept) {
    const double q = job->table[POWER], level = job->table[LEVEL];
    if (q == 0.0) return OK;
    int64_t n = job->outer * job->inner;
    int keeps = can_keep(job);
    Statistics statistics = {.rounder = 3.0 * power_above(counted)};
    double *room = room_for_statistics(job, n, keeps ? 3 : 0, &statistics), *rests, doubt;
    if (!room) return NO_MEMORY;
    *kept = room;
    Job first = *job;
    first.statistics = &statistics;
    first.keep_exps = keeps;
    if (keeps)
        first.margins = room + 3 * n, first.leads = room + 4 * n, first.sum = room + 5 * n;
    else
        first.out = NULL;
    int status = run(&first, threads, where);
    if (status != OK) return status;
    double whole = sums_of_statistics(&first, n, &rests, &doubt), power = q;
    if (level > 0.0 && whole > 0.0 && doubt < level * whole) /* rounding may make doubt slightly negative */
        power *= doubt > 0.0 ? doubt / (level * whole) : 0.0;
    double *exponents = statistics.doubt; /* reuses the memory of doubt */
    for (int64_t i = 0; i < n; i++) {
        if (statistics.share[i] == 0.0) {
            exponents[i] = 0.0;
            continue;
        }
        double prior_rest = rests[statistics.top[i]] / whole, above = prior_rest - statistics.rest[i];
        double room_above = prior_rest > LEAST_ROOM ? prior_rest : LEAST_ROOM;
        exponents[i] = above > 0.0 ? power * above / room_above : 0.0;
    }
    job->exponents = exponents;
    if (keeps) job->exps_kept = 1, job->margins = first.margins, job->leads = first.leads, job->sum = first.sum;
    return OK;
}
