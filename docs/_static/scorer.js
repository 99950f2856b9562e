/* How search results are ranked: as Sphinx does it, with decisions after the pages about use. */
var Scorer = {
  score: ([docname, , , , score]) => (docname.startsWith("decisions/") ? score - 12 : score),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
