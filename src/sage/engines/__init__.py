"""Who answers: model backends behind one small protocol."""
