from test_classifier_spec import *
from test_classifier_spec import _one_thread
@pytest.mark.parametrize("similarity", ["cscm", "mean"])
@pytest.mark.parametrize("lr,steps,scale", [(5e-3,200,8.0),(1e-2,200,8.0),(1e-2,120,20.0),(5e-3,120,20.0)])
def test_x(data, bert_folder, tmp_path, similarity, lr, steps, scale):
    settings = classifier_settings(bert_folder, similarity, initial_scale=scale)
    training = {"steps": steps, "batch_size": 10, "learning_rate": lr, "keep": "last"}
    result = trained(tiny_spec(tmp_path, data, bert_folder, model=settings, held_out=(), training=training))
    print("RES", similarity, lr, steps, scale, accuracy_on(str(data / "main.parquet"), result.model, 30))
